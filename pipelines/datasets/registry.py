"""The datasets that there are, by the names of `--dataset`, and the flags that name one."""

from __future__ import annotations

from dataclasses import dataclass

from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.cityscapes import Cityscapes
from pipelines.datasets.voc import Voc, VocFlags
from training.flags import Flags, flag

READERS: dict[str, type[DatasetReader]] = {"cityscapes": Cityscapes, "voc": Voc}
"""A reader that is added here is one of all commands."""


@dataclass(frozen=True, kw_only=True)
class _RootFlags(Flags):
    dataset: str = flag("layout of the data root", choices=READERS)
    data_root: str = flag("folder or URL of the dataset", free=True)


@dataclass(frozen=True, kw_only=True)
class DatasetFlags(VocFlags, _RootFlags):
    """Flags that name a dataset: layout and place, and the choices that one layout alone has."""


def open_dataset(flags: DatasetFlags) -> DatasetReader:
    """Opens a dataset.

    Raises:
        DatasetError: A choice is missing or not one of this dataset, or nothing lies at the data
            root.
    """
    reader = READERS[flags.dataset]
    for name, other in READERS.items():
        for choice in other.choices:
            if getattr(flags, choice) and choice not in reader.choices:
                raise DatasetError(
                    f"--{choice} is a choice of --dataset {name}, not of {flags.dataset}; leave it "
                    "out"
                )
    location = Location(flags.data_root)
    if not location.fs.exists(location.root):
        raise DatasetError(
            f"no data root at {flags.data_root}; give --data_root the folder that holds the dataset"
        )
    return reader(location, **{name: getattr(flags, name) for name in reader.choices})
