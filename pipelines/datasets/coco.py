"""COCO's layout: a folder of pictures a split, and a JSON file of their objects, or PNGs of their
panoptic segments or of stuff."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec
import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.ids import normal_id
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from latent_store.storage.location import Location
from pipelines.datasets.annotations import require_inside
from pipelines.datasets.base import DatasetReader, canvas_for, count_boxes
from pipelines.datasets.files import picture_sizes, read_file, read_label_map, read_png
from pipelines.datasets.folder import ANNOTATED, BACKGROUND, BOXES_OF, MASKS_OF, NONE, PICTURES
from pipelines.datasets.listing import list_files, list_folders

ANNOTATIONS = "annotations"
INSTANCES, PANOPTIC, STUFF, INFO = "instances", "panoptic", "stuff", "image_info"
KINDS = {
    BOXES_OF: (INSTANCES,),
    MASKS_OF: (PANOPTIC, STUFF),
    NONE: (INSTANCES, PANOPTIC, STUFF, INFO),
}
"""What the names of the JSON files begin with that each annotation is read from."""
MOST_SHOWN = 20
"""Ids of categories in a message."""


class Category(msgspec.Struct, frozen=True):
    """A class."""

    id: int
    name: str


class Image(msgspec.Struct, frozen=True):
    """A picture."""

    id: int
    file_name: str
    height: int
    width: int


class Segment(msgspec.Struct, frozen=True):
    """A segment of a panoptic PNG, whose pixels have its id."""

    id: int
    category_id: int


class Annotation(msgspec.Struct, frozen=True):
    """An object, or the segments of a picture; of stuff its outlines, which are not read."""

    image_id: int
    category_id: int = 0
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: int = 0
    segments_info: tuple[Segment, ...] = ()


class Classes(msgspec.Struct, frozen=True):
    """A file, of which the classes alone are read."""

    categories: tuple[Category, ...] = ()


class Contents(msgspec.Struct, frozen=True):
    """A file of annotations, as far as it is read."""

    images: list[Image]
    categories: tuple[Category, ...] = ()
    annotations: list[Annotation] = []


Struct = TypeVar("Struct", Classes, Contents)


class Coco(DatasetReader):
    """Reads a data root in COCO's layout, from a folder or an object store.

    Classes are numbered in the order of the categories' ids: of boxes from 1, of labels from 0.
    A crowd is an object that is difficult, neither learned nor counted; one whose box has a width
    or height of 0 is left out, and listing says how many. Pictures lie in `SPLIT`, `images/SPLIT`
    or `images`; ids are the names in the file, `_` for `/`, without suffix.

    Args:
        data_root: Holds `annotations` and the pictures.
        annotations: `boxes` (`instances_SPLIT.json`), `masks` (`panoptic_SPLIT.json` with the PNGs
            in `panoptic_SPLIT`, else `stuff_SPLIT.json` with those in `stuff_SPLIT_pixelmaps`) or
            `none`; None for boxes where there are any, else masks.

    Raises:
        DatasetError: There is no such file, or it is none.
    """

    dataset_id = "coco"
    label_ids = "coco-category-order"
    choices = ("annotations",)

    def __init__(self, data_root: Location, *, annotations: str | None = None) -> None:
        self.data_root = data_root
        listed = list_files(data_root, ANNOTATIONS, ".json")
        self.stems = sorted(PurePosixPath(uri).stem for uri in listed)
        there = {
            name: [
                kind for kind in kinds if any(stem.startswith(f"{kind}_") for stem in self.stems)
            ]
            for name, kinds in KINDS.items()
        }
        wanted = annotations or next((name for name in KINDS if there[name]), NONE)
        if not there[wanted]:
            files = " or ".join(f"{kind}_SPLIT.json" for kind in KINDS[wanted])
            raise DatasetError(
                f"{data_root.url}/{ANNOTATIONS} has no {files}; check --data_root, which holds "
                f"that folder, and --annotations (there are: {', '.join(self.stems) or 'no files'})"
            )
        self.kind = there[wanted][0]
        self.annotated = ANNOTATED[wanted]
        self.task = self.annotated.task
        first = next(stem for stem in self.stems if stem.startswith(f"{self.kind}_"))
        if self.task:
            contents = _decoded(data_root, f"{ANNOTATIONS}/{first}.json", Classes)
            self.category_ids, names = _numbered(contents.categories, f"{ANNOTATIONS}/{first}.json")
            self.class_names = names
            if self.annotated.has_boxes:
                self.class_names = (BACKGROUND, *names)
            twice = next((n for n in names if self.class_names.count(n) > 1), None)
            if twice is not None:
                raise DatasetError(
                    f"{ANNOTATIONS}/{first}.json has {self.class_names.count(twice)} classes "
                    f"called {twice!r}, with the background of boxes: reports tell them apart by "
                    "their names; rename all but one, or take them out"
                )
            most = 1 + max(self.category_ids) if self.kind == STUFF else 0
            if max(len(self.class_names), most) > IGNORE_LABEL:
                raise DatasetError(
                    f"{ANNOTATIONS}/{first}.json has {len(names)} categories up to id "
                    f"{max(self.category_ids)}: there may be {IGNORE_LABEL} classes, with the "
                    f"background of boxes, and ids of stuff up to {IGNORE_LABEL - 1}; correct it"
                )

    def manifest(self, split: str) -> list[Sample]:
        """Lists the pictures that a split's file names, each of which must be there."""
        uri = self._file(split)
        _tables.cache_clear()  # The files may have changed since another manifest was made.
        table = _tables(self.data_root, uri)
        if self.task and _numbered(table.categories, uri)[0] != self.category_ids:
            raise DatasetError(
                f"{uri} has other categories than the first {self.kind} file: classes are those of "
                "the whole dataset; keep splits of other classes in data roots of their own"
            )
        if not table.images:
            raise DatasetError(f"{uri} lists no images; restore it, or check --split")
        folder = self._folder(split)
        lengths = list_files(self.data_root, folder, *PICTURES)
        uris = {f"{folder}/{image.file_name}": name for name, image in table.images.items()}
        lacking = [picture for picture in uris if picture not in lengths]
        if lacking:
            raise DatasetError(
                f"{len(lacking)} of the {len(uris)} images in {uri} have no file, the first is "
                f"{self.data_root.url}/{lacking[0]}; restore it, or take the image out of the file"
            )
        sizes = picture_sizes(self.data_root, uris)
        has_boxes, has_labels = self.annotated.has_boxes, self.annotated.has_labels
        samples = [
            Sample(
                sample_id=name,
                image_uri=picture,
                height=height,
                width=width,
                image_bytes=lengths[picture],
                label_uri=self._png(split, picture, folder) if has_labels else "",
                boxes_uri=uri if has_boxes else "",
            )
            for (picture, name), (height, width) in zip(uris.items(), sizes, strict=True)
        ]
        samples.sort(key=lambda sample: sample.sample_id)
        if not has_boxes:
            return samples
        objects = [item for items in table.annotations.values() for item in items]
        flat = sum(not _has_area(item) for item in objects)
        if flat:
            print(
                f"coco: warning: {flat} of the {len(objects)} objects in {uri} are left out: their "
                "boxes have a width or height of 0",
                file=sys.stderr,
            )
        return count_boxes(self, samples)

    def canvas_of(self, samples: Sequence[Sample]) -> tuple[int, int] | None:
        """Returns what holds all of them; None where they have one size."""
        return canvas_for(samples)

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads a sample's objects in the order of its file."""
        table = _tables(self.data_root, sample.boxes_uri)
        image = table.images.get(sample.source_id)
        if image is None:
            raise DatasetError(
                f"{sample.boxes_uri} names no picture {sample.source_id}; restore it"
            )
        if (image.height, image.width) != (sample.height, sample.width):
            raise DatasetError(
                f"{sample.boxes_uri} says that {image.file_name} is {image.height}x{image.width} "
                f"(height x width), it is {sample.height}x{sample.width}; correct one of them"
            )
        listed = enumerate(table.annotations.get(image.id, []))
        objects = {number: item for number, item in listed if _has_area(item)}
        try:
            edges = [_edges(item, sample, number) for number, item in objects.items()]
            labels = [1 + self._number(item.category_id) for item in objects.values()]
        except DatasetError as error:
            raise DatasetError(
                f"{sample.boxes_uri}: {error} (picture {image.file_name}); correct that object"
            ) from error
        crowds = [bool(item.iscrowd) for item in objects.values()]
        return Boxes(
            boxes_N4=np.array(edges, np.float32),
            labels_N=np.array(labels, np.int64),
            difficult_N=np.array(crowds, bool),
            truncated_N=np.zeros(len(objects), bool),
        )

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads the classes of a sample's panoptic segments, or of its stuff; 255 where none is."""
        if self.kind == STUFF:
            ids = (0, *self.category_ids, IGNORE_LABEL)
            rule = f"stuff has the ids of categories, {min(self.category_ids)} to "
            rule += f"{max(self.category_ids)}, and 0 or {IGNORE_LABEL} where there is none"
            ids_HW = read_label_map(self.data_root, sample, ids, rule)
            table_256 = np.full(IGNORE_LABEL + 1, IGNORE_LABEL, np.uint8)
            table_256[list(self.category_ids)] = np.arange(len(self.category_ids))
            return table_256[ids_HW]
        uri = PurePosixPath(sample.label_uri)
        table = _tables(self.data_root, f"{uri.parent}.json")
        size = (sample.height, sample.width)
        mode, rgb_HWC = read_png(self.data_root, sample.label_uri, size=size)
        if mode != "RGB":
            raise DatasetError(
                f"{uri} has mode {mode}: the pixels of panoptic PNGs are ids in RGB; restore it"
            )
        segments = {
            segment.id: segment.category_id
            for item in table.annotations.get(table.images[sample.source_id].id, [])
            for segment in item.segments_info
        }
        ids_HW = rgb_HWC.astype(np.int64) @ np.array([1, 256, 65536])
        found, inverse = np.unique(ids_HW, return_inverse=True)
        strange = [value for value in found.tolist() if value and value not in segments]
        if strange:
            raise DatasetError(
                f"{uri} holds the segment {strange[0]}, which {uri.parent}.json does not list; "
                "restore one of them"
            )
        classes = [self._number(segments[v]) if v else IGNORE_LABEL for v in found.tolist()]
        labels_HW: np.ndarray = np.array(classes, np.uint8)[inverse].reshape(size)
        return labels_HW

    def _number(self, category_id: int) -> int:
        """Returns the place of a category in their order."""
        if category_id not in self.category_ids:
            raise DatasetError(
                f"the category {category_id} is none of the {len(self.category_ids)} that are "
                "listed"
            )
        return self.category_ids.index(category_id)

    def _file(self, split: str) -> str:
        stems = [f"{self.kind}_{split}"]
        if not self.task:
            stems = [f"{kind}_{split}" for kind in KINDS[NONE]]
        for stem in stems:
            if stem in self.stems:
                return f"{ANNOTATIONS}/{stem}.json"
        raise DatasetError(
            f"no {ANNOTATIONS}/{stems[0]}.json in {self.data_root.url}; check --split (there are: "
            f"{', '.join(self.stems)})"
        )

    def _folder(self, split: str) -> str:
        inside = [f"images/{name}" for name in list_folders(self.data_root, "images")]
        there = [*list_folders(self.data_root, ""), *inside]
        for folder in (split, f"images/{split}", "images"):
            if folder in there:
                return folder
        raise DatasetError(
            f"{self.data_root.url} has no folder {split} and no images/{split}, where the pictures "
            "of the split are looked for; check --data_root and --split"
        )

    def _png(self, split: str, picture: str, folder: str) -> str:
        below = f"{PANOPTIC}_{split}" if self.kind == PANOPTIC else f"{STUFF}_{split}_pixelmaps"
        name = PurePosixPath(picture.removeprefix(f"{folder}/")).with_suffix(".png")
        return f"{ANNOTATIONS}/{below}/{name.name if self.kind == PANOPTIC else name}"


class _Table:
    """A file's contents, looked up: images by sample id, annotations by image id."""

    def __init__(self, contents: Contents, uri: str) -> None:
        self.categories = contents.categories
        self.images: dict[str, Image] = {}
        for image in contents.images:
            name = normal_id(str(PurePosixPath(image.file_name).with_suffix("")).replace("/", "_"))
            if name in self.images:
                raise DatasetError(f"{uri} names the picture {name!r} twice; take one out")
            self.images[name] = image
        known = {image.id for image in contents.images}
        if len(known) < len(self.images):
            raise DatasetError(f"{uri} gives two images one id; correct it")
        self.annotations: dict[int, list[Annotation]] = {}
        for item in contents.annotations:
            if item.image_id not in known:
                raise DatasetError(
                    f"{uri} has an annotation of image {item.image_id}, which it does not list; "
                    "take it out, or list the image"
                )
            self.annotations.setdefault(item.image_id, []).append(item)


@functools.lru_cache(maxsize=4)
def _tables(location: Location, uri: str) -> _Table:
    """Reads a file once a process: that of COCO's training split has 450 MB."""
    return _Table(_decoded(location, uri, Contents), uri)


def _decoded(location: Location, uri: str, kind: type[Struct]) -> Struct:
    try:
        return msgspec.json.decode(read_file(location, uri), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{uri} is no such file of COCO's ({error}); restore it") from error


def _numbered(
    categories: Iterable[Category], where: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns ids and names in the order of the ids."""
    listed = sorted(categories, key=lambda item: item.id)
    known = {item.id: item.name for item in listed}
    if not known or len(known) < len(listed) or min(known) < 0:
        ids = ", ".join(str(item.id) for item in listed[:MOST_SHOWN])
        raise DatasetError(
            f"{where} must list one category or more, each with an id of its own, 0 or more, got "
            f"{len(listed)} ({ids or 'none'}); correct it"
        )
    return tuple(known), tuple(known.values())


def _has_area(item: Annotation) -> bool:
    return item.bbox is None or 0 not in item.bbox[2:]


def _edges(item: Annotation, sample: Sample, number: int) -> tuple[Any, ...]:
    """Returns half-open pixel edges, of COCO's left, top, width, height."""
    if item.bbox is None:
        raise DatasetError(f"object {number} has no bbox")
    left, top, width, height = item.bbox
    shown = f"the box of object {number} ({', '.join(f'{value:g}' for value in item.bbox)})"
    if not (all(map(math.isfinite, item.bbox)) and width > 0 and height > 0):
        raise DatasetError(f"{shown} must have finite numbers, and a width and height above 0")
    box = (left, top, left + width, top + height)
    require_inside(box, sample, shown)
    return box
