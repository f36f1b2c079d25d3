"""The datasets that there are, by the names of `--dataset`, or one's own, and the flags of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from latent_store.components.registry import task_kinds
from latent_store.errors import DatasetError, LatentStoreError
from latent_store.format.ids import require_name
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from pipelines.datasets.base import DatasetReader, read_boxes, read_labels
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
"""Samples of one's own reader whose annotations are read before anything is written."""


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
    opened: DatasetReader = _called(flags.dataset, reader, location, **choices)
    _require_whole(flags.dataset, opened)
    return opened


def try_reader(reader: DatasetReader, samples: Sequence[Sample]) -> None:
    """Reads a few annotations by one's own reader, before anything is written.

    Raises:
        DatasetError: It can read none of them; says why not the first.
    """
    kind = task_kinds().get(reader.task)
    if kind is None or type(reader) in READERS.values():
        return
    listed = [sample for sample in samples if kind.lists(sample) and sample.has_size]
    refusals = []
    for sample in listed[:: max(1, len(listed) // _TRIED)][:_TRIED]:
        place = f"{type(reader).__name__}.read_{kind.kind}"
        try:
            _called(place, _ANNOTATIONS[kind.kind], reader, sample)
            return
        except DatasetError as error:
            refusals.append(error)
    if refusals:
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
    if reader.task and not reader.class_names:
        raise DatasetError(f"--dataset {place} has the task {reader.task}, but no `class_names`")


def _called(place: str, function: Any, *args: Any, **more: Any) -> Any:
    """Returns what somebody else's code does, whose mistakes become one line."""
    try:
        return function(*args, **more)
    except (LatentStoreError, OSError):
        raise
    except Exception as error:
        raise DatasetError(
            f"{place} raised {type(error).__name__}: {error}; mend the reader"
        ) from error
