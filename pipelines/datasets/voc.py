"""PASCAL VOC's devkit layout: `VOC2007/JPEGImages`, `SegmentationClass`, `Annotations`,
`ImageSets/Segmentation|Main/SPLIT.txt`; several years side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.ids import normal_id
from latent_store.format.samples import Sample
from latent_store.format.schema import DETECTION, IGNORE_LABEL, SEGMENTATION
from latent_store.storage.location import Location
from pipelines.datasets.annotations import read_objects
from pipelines.datasets.base import DatasetReader, count_boxes
from pipelines.datasets.files import picture_sizes, read_label_map
from pipelines.datasets.listing import find_files, list_files, list_folders, read_list
from training.flags import Flags, flag
from training.tasks.classes import VOC_CLASSES

DEVKIT = "VOCdevkit"
IMAGES, MASKS, ANNOTATIONS = "JPEGImages", "SegmentationClass", "Annotations"


class TaskFiles(NamedTuple):
    """The files of one task, below a year's folder: lists of ids, and an annotation of each."""

    lists: str
    annotations: str
    suffix: str
    has_boxes: bool


FILES = {
    SEGMENTATION: TaskFiles("ImageSets/Segmentation", MASKS, "png", has_boxes=False),
    DETECTION: TaskFiles("ImageSets/Main", ANNOTATIONS, "xml", has_boxes=True),
}

LABELS = (*range(len(VOC_CLASSES)), IGNORE_LABEL)


@dataclass(frozen=True, kw_only=True)
class VocFlags(Flags):
    """Flags of `--dataset voc` alone."""

    voc_task: str | None = flag(
        "for voc: whose image lists and annotations are read; both can share a store, one after "
        "the other",
        default=None,
        choices=sorted(FILES),
    )
    year: tuple[int, ...] | None = flag(
        "for voc: one or several, e.g. 2007 2012 (default: the only one in the data root)",
        default=None,
        least=1000,
        most=9999,
    )


class Voc(DatasetReader):
    """Reads a data root in the devkit's layout, from a folder or an object store.

    Args:
        data_root: Holds `VOC2007`, `VOC2012`, ..., or `VOCdevkit` with them inside.
        voc_task: `segmentation` or `detection`: whose lists are read.
        year: One or several of the data root; empty for the only one that it holds.

    Raises:
        DatasetError: No task is named, a year is not there, or none is named of several.
    """

    canvas = (512, 512)
    class_names = VOC_CLASSES
    label_ids = "voc-class-ids"
    choices = ("voc_task", "year")

    def __init__(
        self, data_root: Location, *, voc_task: str | None, year: Sequence[int] | None = None
    ) -> None:
        if voc_task not in FILES:
            raise DatasetError(
                "--dataset voc needs --voc_task segmentation or --voc_task detection, which says "
                f"whose image lists and annotations are meant; got {voc_task or 'none'}"
            )
        if DEVKIT in list_folders(data_root, ""):
            data_root = Location(f"{data_root.address}/{DEVKIT}", data_root.storage_options)
        self.data_root = data_root
        self.task, self.files = voc_task, FILES[voc_task]
        folders = (re.fullmatch(r"VOC(\d{4})", name) for name in list_folders(data_root, ""))
        there = [int(match[1]) for match in folders if match]
        words = ", ".join(f"VOC{number}" for number in there) or "no VOC year"
        if not year and len(there) != 1:
            raise DatasetError(
                f"{data_root.url} has: {words}; --data_root is the folder that holds VOC2007, "
                "VOC2012, ... or VOCdevkit, and --year says which to read"
            )
        self.years = tuple(sorted(set(year or there)))
        # Of several years `voc0712`.
        short = "".join(f"{number % 100:02d}" for number in self.years)
        self.dataset_id = f"voc{short if len(self.years) > 1 else self.years[0]}"
        missing = [number for number in self.years if number not in there]
        if missing:
            raise DatasetError(
                f"{data_root.url} has no VOC{missing[0]}; it has: {words}; check --data_root and "
                "--year"
            )

    def manifest(self, split: str) -> list[Sample]:
        """Lists the samples that the task's list of a split names; no id occurs twice."""
        listed = [(year, name) for year in self.years for name in self._list(year, split)]
        self._require_one_year(listed)
        listed.sort(key=lambda pair: pair[1])
        images = self._files(listed, split, IMAGES, "jpg")
        annotations = self._files(listed, split, self.files.annotations, self.files.suffix)
        sizes = picture_sizes(self.data_root, images)
        has_boxes = self.files.has_boxes
        samples = [
            Sample(
                sample_id=name,
                image_uri=image,
                height=height,
                width=width,
                image_bytes=length,
                label_uri="" if has_boxes else annotation,
                boxes_uri=annotation if has_boxes else "",
            )
            for (_, name), (image, length), annotation, (height, width) in zip(
                listed, images.items(), annotations, sizes, strict=True
            )
        ]
        # A mask has no objects to count.
        return count_boxes(self, samples) if has_boxes else samples

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads a sample's mask, a palette or greyscale PNG whose values are class ids."""
        rule = f"class ids are 0 to {len(VOC_CLASSES) - 1}, and {IGNORE_LABEL} is ignored"
        return read_label_map(self.data_root, sample, LABELS, rule)

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads a sample's objects in the order of its file; each has a class and a box inside."""
        return read_objects(self.data_root, sample, VOC_CLASSES, "VOC's classes")

    def _list(self, year: int, split: str) -> list[str]:
        uri = self._list_uri(year, split)
        try:
            names = read_list(self.data_root, uri)
        except FileNotFoundError:
            files = list_files(self.data_root, f"VOC{year}/{self.files.lists}", ".txt")
            # Lists of single classes, such as car_train, are no lists of ids.
            stems = sorted(stem for stem in (Path(name).stem for name in files) if "_" not in stem)
            raise DatasetError(
                f"no list of images at {self.data_root.url}/{uri}; check --year and --split (there "
                f"are: {', '.join(stems) or 'no lists'})"
            ) from None
        if not names:
            raise DatasetError(
                f"{uri} is empty: such a list has one image id a line; check --split"
            )
        return [normal_id(name) for name in names]

    def _list_uri(self, year: int, split: str) -> str:
        return f"VOC{year}/{self.files.lists}/{split}.txt"

    def _require_one_year(self, listed: Sequence[tuple[int, str]]) -> None:
        known: dict[str, int] = {}
        for year, name in listed:
            if name in known:
                twice = f"VOC{year}" if known[name] == year else f"VOC{known[name]} and VOC{year}"
                raise DatasetError(
                    f"the id {name!r} is listed twice, in {twice}: ids must be unique in a split; "
                    "take it out of one list, or encode the years into datasets of their own"
                )
            known[name] = year

    def _files(
        self, listed: Sequence[tuple[int, str]], split: str, kind: str, suffix: str
    ) -> dict[str, int]:
        """Returns the path and the length in bytes of each listed id's file of one kind."""
        found = {
            year: find_files(self.data_root, f"VOC{year}/{kind}", f".{suffix}")
            for year in self.years
        }
        lacking = [(year, name) for year, name in listed if name not in found[year].uris]
        if lacking:
            year, name = lacking[0]
            if len(name.split()) > 1:
                raise DatasetError(
                    f"{self._list_uri(year, split)} has the line {name!r}: such a list has one "
                    f"image id a line, and there is no {kind}/{name}.{suffix}; check --split"
                )
            raise DatasetError(
                f"{len(lacking)} of {len(listed)} listed images have no file in {kind}, the first "
                f"is {self.data_root.url}/VOC{year}/{kind}/{name}.{suffix}; restore it, or take "
                f"the id out of the list{found[year].aside}"
            )
        uris = [found[year].uris[name] for year, name in listed]
        lengths = {uri: n for files in found.values() for uri, n in files.lengths.items()}
        return {uri: lengths[uri] for uri in uris}
