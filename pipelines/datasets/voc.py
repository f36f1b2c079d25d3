"""PASCAL VOC's devkit layout: `VOC2007/JPEGImages`, `SegmentationClass`, `Annotations`,
`ImageSets/Segmentation|Main/SPLIT.txt`; several years side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Self
from xml.etree import ElementTree as ET

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.plan import Sample
from latent_store.format.schema import DETECTION, IGNORE_LABEL, SEGMENTATION
from latent_store.storage.location import Location
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.files import FILES_AT_ONCE, picture_sizes, read_file, read_png
from training.flags import flag
from training.tasks.classes import VOC_CLASSES

DEVKIT = "VOCdevkit"
IMAGES, MASKS, ANNOTATIONS = "JPEGImages", "SegmentationClass", "Annotations"


class TaskFiles(NamedTuple):
    """The files of one task, below a year's folder: lists of ids, and an annotation of each."""

    lists: str
    annotations: str
    suffix: str
    uri: str
    """The field of a sample that names its annotation."""


FILES = {
    SEGMENTATION: TaskFiles("ImageSets/Segmentation", MASKS, "png", "label_uri"),
    DETECTION: TaskFiles("ImageSets/Main", ANNOTATIONS, "xml", "boxes_uri"),
}

BEYOND = 1
"""Pixels by which a box may leave its picture. The real set has boxes that touch the edge + 1; the
devkit scores them as they are written, so they are stored as they are written."""

_LABEL_IDS = {name: label for label, name in enumerate(VOC_CLASSES) if label}
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class VocFlags:
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
    )


class Voc(DatasetReader):
    """Reads a data root in the devkit's layout, from a folder or an object store.

    Args:
        data_root: Holds `VOC2007`, `VOC2012`, ..., or `VOCdevkit` with them inside.
        task: `segmentation` or `detection`: whose lists are read.
        years: Of the data root; empty for the only one that it holds.

    Raises:
        DatasetError: A year is not there, or none is named where there are several.
    """

    canvas = (512, 512)
    class_names = VOC_CLASSES
    label_ids = "voc-class-ids"
    choices = ("voc_task", "year")

    def __init__(self, data_root: Location, *, task: str, years: Sequence[int] = ()):
        if DEVKIT in data_root.folders(""):
            data_root = Location(f"{data_root.url}/{DEVKIT}", data_root.storage_options)
        self.data_root = data_root
        self.task, self.files = task, FILES[task]
        self.years = tuple(sorted(set(years))) or self._only_year()
        missing = [year for year in self.years if year not in self._years_there()]
        if missing:
            raise DatasetError(
                f"{data_root.url} has no VOC{missing[0]}; it has: {self._in_words()}; check "
                "--data_root and --year"
            )

    @classmethod
    def open(cls, data_root: Location, *, voc_task: str | None, year: Sequence[int] | None) -> Self:
        """Opens the lists of a task, of one year or several."""
        if voc_task not in FILES:
            raise DatasetError(
                "--dataset voc needs --voc_task segmentation or --voc_task detection, which says "
                f"whose image lists and annotations are meant; got {voc_task or 'none'}"
            )
        return cls(data_root, task=voc_task, years=year or ())

    @property
    def dataset_id(self) -> str:
        """`voc2012`; of several years `voc0712`."""
        if len(self.years) == 1:
            return f"voc{self.years[0]}"
        return "voc" + "".join(f"{year % 100:02d}" for year in self.years)

    def manifest(self, split: str) -> list[Sample]:
        """Lists the samples that the task's list of a split names; no id occurs twice."""
        listed = [(year, name) for year in self.years for name in self._list(year, split)]
        self._require_one_year(listed)
        listed.sort(key=lambda pair: pair[1])
        images = self._files(listed, IMAGES, "jpg")
        annotations = self._files(listed, self.files.annotations, self.files.suffix)
        sizes = picture_sizes(self.data_root, images)
        counts = self._counts(annotations)
        return [
            Sample(
                sample_id=name,
                image_uri=image,
                height=height,
                width=width,
                image_bytes=length,
                num_boxes=count,
                **{"label_uri": "", self.files.uri: annotation},
            )
            for (_, name), (image, length), annotation, (height, width), count in zip(
                listed, images.items(), annotations, sizes, counts, strict=True
            )
        ]

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads a sample's mask, a palette or greyscale PNG whose values are class ids."""
        mode, labels_HW = read_png(self.data_root, sample.label_uri)
        if mode not in ("P", "L"):
            raise DatasetError(
                f"{sample.label_uri} has mode {mode}: masks are palette or greyscale PNGs, whose "
                "8-bit values are class ids; restore it"
            )
        if labels_HW.shape != (sample.height, sample.width):
            raise DatasetError(
                f"{sample.label_uri} is {labels_HW.shape[0]}x{labels_HW.shape[1]}, its image is "
                f"{sample.height}x{sample.width} (height x width): masks have one label a pixel"
            )
        strange = np.setdiff1d(labels_HW, [*range(len(VOC_CLASSES)), IGNORE_LABEL])
        if strange.size:
            raise DatasetError(
                f"{sample.label_uri} holds the value {strange[0]}: class ids are 0 to "
                f"{len(VOC_CLASSES) - 1}, and {IGNORE_LABEL} is ignored; restore it"
            )
        return labels_HW

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads a sample's objects in the order of its file; each has a class and a box inside."""
        try:
            objects = _objects(read_file(self.data_root, sample.boxes_uri))
        except ET.ParseError as error:
            raise DatasetError(
                f"{sample.boxes_uri} is no readable XML ({error}); restore it"
            ) from error
        try:
            found = [_read_object(element, sample) for element in objects]
        except DatasetError as error:
            raise DatasetError(f"{sample.boxes_uri}: {error}; correct that object") from error
        edges, labels, difficult, truncated = zip(*found, strict=True) if found else [()] * 4
        return Boxes(boxes_N4=edges, labels_N=labels, difficult_N=difficult, truncated_N=truncated)

    def _list(self, year: int, split: str) -> list[str]:
        folder = f"VOC{year}/{self.files.lists}"
        uri = f"{folder}/{split}.txt"
        try:
            lines = self.data_root.read(uri).decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            raise DatasetError(
                f"no list of images at {self.data_root.url}/{uri}; check --year and --split (there "
                f"are: {self._splits(folder) or 'no lists'})"
            ) from None
        rows = [line.split() for line in lines if line.strip()]
        strange = next((row for row in rows if len(row) != 1), None)
        if strange or not rows:
            what = f"has the line {' '.join(strange)!r}" if strange else "is empty"
            raise DatasetError(f"{uri} {what}: such a list has one image id a line; check --split")
        return [row[0] for row in rows]

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

    def _files(self, listed: Sequence[tuple[int, str]], kind: str, suffix: str) -> dict[str, int]:
        """Returns the path and the length in bytes of each listed id's file of one kind."""
        there: dict[str, int] = {}
        for year in self.years:
            there |= self.data_root.sizes(f"VOC{year}/{kind}")
        wanted = [f"VOC{year}/{kind}/{name}.{suffix}" for year, name in listed]
        lacking = [uri for uri in wanted if uri not in there]
        if lacking:
            raise DatasetError(
                f"{len(lacking)} of {len(wanted)} listed images have no file in {kind}, the first "
                f"is {self.data_root.url}/{lacking[0]}; restore it, or take the id out of the list"
            )
        return {uri: there[uri] for uri in wanted}

    def _counts(self, uris: Iterable[str]) -> list[int]:
        """Returns how many objects each annotation lists; a mask has none to count."""
        if self.files.annotations != ANNOTATIONS:
            return [0 for _ in uris]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(self._count, uris))

    def _count(self, uri: str) -> int:
        try:
            return len(_objects(self.data_root.read(uri)))
        except ET.ParseError:
            return 0  # The job itself reports it, with its row.

    def _years_there(self) -> list[int]:
        names = (re.fullmatch(r"VOC(\d{4})", name) for name in self.data_root.folders(""))
        return [int(match[1]) for match in names if match]

    def _only_year(self) -> tuple[int, ...]:
        there = self._years_there()
        if len(there) != 1:
            raise DatasetError(
                f"{self.data_root.url} has: {self._in_words()}; --data_root is the folder that "
                "holds VOC2007, VOC2012, ... or VOCdevkit, and --year says which to read"
            )
        return tuple(there)

    def _in_words(self) -> str:
        return ", ".join(f"VOC{year}" for year in self._years_there()) or "no VOC year"

    def _splits(self, folder: str) -> str:
        names = (uri.rsplit("/", 1)[1] for uri in self.data_root.sizes(folder))
        # Lists of single classes, such as car_train, are no lists of ids.
        stems = (name.removesuffix(".txt") for name in names)
        return ", ".join(sorted(stem for stem in stems if "_" not in stem))


def _objects(xml: bytes) -> list[ET.Element]:
    # Of the root itself: the parts of a person are inside of its object.
    return ET.fromstring(xml).findall("object")


def _read_object(
    element: ET.Element, sample: Sample
) -> tuple[tuple[float, float, float, float], int, bool, bool]:
    """Returns half-open edges from 0, class id, difficult, truncated."""
    name = _text(element, "name")
    if name not in _LABEL_IDS:
        raise DatasetError(
            f"an object is a {name!r}, which is none of VOC's classes: {', '.join(_LABEL_IDS)}"
        )
    box = element.find("bndbox")
    if box is None:
        raise DatasetError(f"the {name} has no bndbox")
    written = tuple(_number(box, edge, name) for edge in _EDGES)
    xmin, ymin, xmax, ymax = written
    shown = ", ".join(f"{edge} {value:g}" for edge, value in zip(_EDGES, written, strict=True))
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"the box of the {name} is inverted ({shown})")
    x1, y1, x2, y2 = xmin - 1, ymin - 1, xmax, ymax
    if (
        min(x1, y1) < -BEYOND
        or x2 > sample.width + BEYOND
        or y2 > sample.height + BEYOND
        or min(x2, y2) <= 0
        or x1 >= sample.width
        or y1 >= sample.height
    ):
        raise DatasetError(
            f"the box of the {name} ({shown}) leaves the picture of {sample.width}x{sample.height} "
            f"(width x height) by more than {BEYOND} pixel, or is not in it at all"
        )
    return (
        (x1, y1, x2, y2),
        _LABEL_IDS[name],
        *(_flag(element, flag, name) for flag in ("difficult", "truncated")),
    )


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(box: ET.Element, edge: str, name: str) -> float:
    text = _text(box, edge)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"the box of the {name} has {edge} {text!r}, which is no number")
    return value


def _flag(element: ET.Element, tag: str, name: str) -> bool:
    # As the devkit has it: what is not marked is not so.
    text = _text(element, tag) or "0"
    if text not in ("0", "1"):
        raise DatasetError(f"the {name} has {tag} {text!r}, which is neither 0 nor 1")
    return text == "1"
