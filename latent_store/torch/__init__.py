"""Samples and batches of a split for PyTorch: `Dataset`, map-style, and `IterableDataset`, which
hands out shuffled batches read ahead. Both read with what this project's trainer reads with,
`latent_store.batches.columns.Columns`."""

from latent_store.torch.datasets import Dataset as Dataset
from latent_store.torch.datasets import IterableDataset as IterableDataset

__all__ = ["Dataset", "IterableDataset"]
