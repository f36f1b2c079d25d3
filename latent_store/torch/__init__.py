"""Samples and batches of a split for PyTorch: `Dataset`, map-style, and `IterableDataset`, which
hands out shuffled batches read ahead. Both read with what this project's trainer reads with,
`latent_store.batches.columns.Columns`.

    >>> import latent_store
    >>> from latent_store.torch import Dataset
    >>> split = latent_store.open("city.zarr")["cityscapes/train"]
    >>> dataset = Dataset(split, ["y_hat", "labels"], ranked="variance", keep=16)
    >>> len(dataset), dataset[0]["y_hat"].shape, dataset[0]["labels"].shape
    (6, torch.Size([16, 8, 12]), torch.Size([128, 192]))
"""

from latent_store.torch.datasets import Dataset as Dataset
from latent_store.torch.datasets import IterableDataset as IterableDataset

__all__ = ["Dataset", "IterableDataset"]
