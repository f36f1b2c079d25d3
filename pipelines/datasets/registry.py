"""The datasets that there are, by the names of `--dataset`, or one's own, and the flags of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latent_store.components.registry import task_kinds
from latent_store.errors import DatasetError, LatentStoreError
from latent_store.format.ids import require_name
from latent_store.format.sample_lists import Samples
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from pipelines.datasets.base import DatasetReader, read_boxes, read_labels, read_picture
from pipelines.datasets.cityscapes import Cityscapes
from pipelines.datasets.coco import Coco
from pipelines.datasets.folder import Folder, FolderFlags
from pipelines.datasets.voc import Voc, VocFlags
from training.flags import Flags, flag
from training.own_code import OrOwn, import_own, is_own

READERS: dict[str, type[DatasetReader]] = {
    "cityscapes": Cityscapes,
    "voc": Voc,
    "folder": Folder,
    "coco": Coco,
}
"""A reader that is added here is one of all commands."""
_ANNOTATIONS: dict[str, Callable[[DatasetReader, Sample], Any]] = {
    "labels": lambda reader, sample: read_labels(reader, sample, sample.coded_size),
    "boxes": read_boxes,
}
"""By kind, what reads a sample's."""
_TRIED = 3
"""Samples that are read before anything is written, the first and the last among them."""


@dataclass(frozen=True, kw_only=True)
class _RootFlags(Flags):
    dataset: str = flag(
        "layout of the data root, or the place of a `DatasetReader` of your own",
        choices=OrOwn(READERS, "Reader"),
    )
    data_root: str = flag("folder or URL of the dataset", free=True)


@dataclass(frozen=True, kw_only=True)
class DatasetFlags(FolderFlags, VocFlags, _RootFlags):
    """Flags that name a dataset: layout and place, and the choices that some layouts alone have."""


def open_dataset(flags: DatasetFlags) -> DatasetReader:
    """Opens a dataset.

    Raises:
        DatasetError: A choice is missing or not one of this dataset, or nothing lies at the data
            root, or one's own reader is none.
    """
    own = is_own(flags.dataset)
    reader = _own_reader(flags.dataset) if own else READERS[flags.dataset]
    for name, other in READERS.items():
        for choice in other.choices:
            if getattr(flags, choice) and choice not in reader.choices:
                raise DatasetError(
                    f"--{choice} is a choice of --dataset {name}, not of {flags.dataset}; leave it "
                    "out"
                )
    location = open_location(flags.data_root)
    if not location.fs.exists(location.root):
        raise DatasetError(
            f"no data root at {flags.data_root}; give --data_root the folder that holds the dataset"
        )
    choices = {name: getattr(flags, name) for name in reader.choices}
    if not own:
        return reader(location, **choices)
    try:
        opened = reader(location, **choices)
    except (LatentStoreError, OSError):
        raise
    except Exception as error:
        raise DatasetError(
            f"{flags.dataset} raised {type(error).__name__}: {error}; mend the reader"
        ) from error
    _require_whole(flags.dataset, opened)
    return opened


def try_reader(reader: DatasetReader, samples: Samples, *, tolerated: int = 0) -> None:
    """Reads a few pictures and their annotations, before anything is written.

    Raises:
        DatasetError: None of them can be read, and so many failures are not tolerated; says why
            not the first.
    """
    kind = task_kinds().get(reader.task)
    listed = samples.has("height") & samples.has("width")
    if kind is not None:
        listed &= samples.has(kind.source)
    counted = np.cumsum(listed, dtype=np.uint32)
    last = int(counted[-1]) - 1
    picks = np.unique(np.linspace(0, last, _TRIED).astype(int)) if last >= 0 else ()
    refusals = []
    for place in np.searchsorted(counted, np.add(picks, 1)).tolist():
        sample = samples[place]
        try:
            read_picture(reader, sample)
            if kind is not None:
                _ANNOTATIONS[kind.kind](reader, sample)
            return
        except DatasetError as error:
            refusals.append(error)
    if len(refusals) > tolerated:
        raise refusals[0]


def _own_reader(place: str) -> type[DatasetReader]:
    reader = import_own(place)
    if not (inspect.isclass(reader) and issubclass(reader, DatasetReader)):
        raise DatasetError(
            f"--dataset {place} must be a class derived from pipelines.datasets.base.DatasetReader,"
            f" got {type(reader).__name__}; derive it"
        )
    lacking = sorted(getattr(reader, "__abstractmethods__", ()))
    if lacking:
        raise DatasetError(f"--dataset {place} lacks the method {lacking[0]}; see `DatasetReader`")
    unknown = {c for c in reader.choices if not any(c in r.choices for r in READERS.values())}
    if unknown:
        raise DatasetError(
            f"--dataset {place} asks for the flag --{min(unknown)}, which there is not: its choices"
            " are those of built-in readers"
        )
    return reader


def _require_whole(place: str, reader: Any) -> None:
    name = getattr(reader, "dataset_id", None)
    if not isinstance(name, str):
        raise DatasetError(f"--dataset {place} lacks `dataset_id`, its name in a store; give it")
    require_name(name, f"{place}.dataset_id")
    kinds = task_kinds()
    if not isinstance(getattr(reader, "data_root", None), Location):
        raise DatasetError(
            f"--dataset {place} lacks `data_root`: call super().__init__(data_root), or set it"
        )
    if reader.task and reader.task not in kinds:
        raise DatasetError(
            f"--dataset {place} has the task {reader.task!r}; there are: {', '.join(kinds)}, and "
            "'' for pictures alone"
        )
    method = f"read_{kinds[reader.task].kind}" if reader.task else ""
    if method and getattr(type(reader), method) is getattr(DatasetReader, method):
        raise DatasetError(
            f"--dataset {place} has the task {reader.task}, but lacks the method {method}; write "
            "it, or have no task"
        )
    names = reader.class_names
    listed = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    if reader.task and not (listed and 1 <= len(set(names)) == len(names) <= IGNORE_LABEL):
        raise DatasetError(
            f"--dataset {place} has the task {reader.task}: its `class_names` must be a tuple of 1 "
            f"to {IGNORE_LABEL} names, each once, got {str(names)[:200] or repr(names)}; mend it"
        )
