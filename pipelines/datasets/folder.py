"""A folder of pictures, of whatever depth, with masks or boxes of the same names beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.ids import normal_id
from latent_store.format.samples import Sample
from latent_store.format.schema import DETECTION, IGNORE_LABEL, SEGMENTATION
from latent_store.storage.location import Location
from pipelines.datasets.annotations import read_objects
from pipelines.datasets.base import DatasetReader, canvas_for, count_boxes
from pipelines.datasets.files import UNREAD, picture_sizes, read_label_map, read_pixels
from pipelines.datasets.listing import find_files, list_files, list_folders, read_list
from training.flags import Flags, flag

PICTURES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2",
)  # fmt: skip
"""Suffixes, in whatever case, of files that are taken for pictures."""
MASK, BOXES = ".mask.png", ".xml"
"""Suffixes of the annotations beside a picture."""
CLASSES = "classes.txt"
BACKGROUND = "background"
MASKS_OF, BOXES_OF, NONE = "masks", "boxes", "none"


@dataclass(frozen=True, kw_only=True)
class AnnotationKind:
    """What lies beside pictures, and the task that learns from it."""

    task: str = ""
    has_labels: bool = False
    has_boxes: bool = False


ANNOTATED = {
    MASKS_OF: AnnotationKind(task=SEGMENTATION, has_labels=True),
    BOXES_OF: AnnotationKind(task=DETECTION, has_boxes=True),
    NONE: AnnotationKind(),
}
"""By the values of `--annotations`."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FolderFlags(Flags):
    """Flags of `--dataset folder`, some of which `--dataset coco` has too."""

    annotations: str | None = flag(
        "for folder and coco: what is read of each picture (default: what is there)",
        default=None,
        choices=tuple(ANNOTATED),
    )
    annotation_root: str | None = flag(
        "for folder: folder in the data root that holds masks (.png) or boxes (.xml) by the "
        "pictures' names (default: beside each picture, NAME.mask.png or NAME.xml)",
        default=None,
    )
    classes: str | None = flag(
        f"for folder: list of class names in the data root, one a line, in the order of their ids "
        f"(default: {CLASSES})",
        default=None,
    )


class Folder(DatasetReader):
    """Reads the pictures below a folder, and the annotations that lie there by their names.

    A split is the folder of its name in the data root; where there is none and pictures lie in the
    data root itself, it is the data root. Ids are paths below that folder, `_` between the parts,
    without suffix. A picture without annotation is encoded, and absent where one learns.

    Args:
        data_root: The folder.
        annotations: One of `ANNOTATED`; None for what is there.
        annotation_root: Folder of the annotations; in it, or in its folder of the split's name.
        classes: Path of the list of class names, in the order of the ids: masks count from 0,
            and of boxes the background, which need not be listed, is 0.

    Raises:
        DatasetError: There are no such annotations, or both and none is asked for, or the classes
            are not listed.
    """

    dataset_id = "folder"
    choices = ("annotations", "annotation_root", "classes")

    def __init__(
        self,
        data_root: Location,
        *,
        annotations: str | None = None,
        annotation_root: str | None = None,
        classes: str | None = None,
    ) -> None:
        self.data_root = data_root
        self.annotation_root = (annotation_root or "").strip("/")
        self.mask_suffix = ".png" if self.annotation_root else MASK
        self.annotated = ANNOTATED[self._found(annotations)]
        self.task = self.annotated.task
        self.classes_uri = classes or CLASSES
        if self.task:
            self.class_names = self._read_classes()

    def manifest(self, split: str) -> list[Sample]:
        """Lists the pictures of a split and, by their names, annotations; says how many lack."""
        folder = self._folder(split)
        uris = self._pictures(folder)
        names = [_name(uri, folder) for uri in uris]
        sizes = picture_sizes(self.data_root, uris)
        self._require_one(folder, list(uris), sizes)
        found = self._annotations(folder, split)
        has_boxes = self.annotated.has_boxes
        samples = [
            Sample(
                sample_id=name.replace("/", "_"),
                image_uri=uri,
                height=height,
                width=width,
                image_bytes=length,
                label_uri="" if has_boxes else found.get(name, ""),
                boxes_uri=found.get(name, "") if has_boxes else "",
            )
            for name, (uri, length), (height, width) in zip(names, uris.items(), sizes, strict=True)
        ]
        self._say_lonely(split, names, found)
        samples.sort(key=lambda sample: sample.sample_id)
        return count_boxes(self, samples) if has_boxes else samples

    def canvas_of(self, samples: Sequence[Sample]) -> tuple[int, int] | None:
        """Returns what holds all of them; None where they have one size."""
        return canvas_for(samples)

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads a sample's mask, a palette or greyscale PNG whose values are class ids."""
        last = len(self.class_names) - 1
        rule = f"class ids are 0 to {last}, by {self.classes_uri}, and {IGNORE_LABEL} is ignored"
        remedy = f"correct the mask, or add the class to {self.classes_uri}"
        ids = (*range(last + 1), IGNORE_LABEL)
        return read_label_map(self.data_root, sample, ids, rule, remedy)

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads a sample's objects, an XML file as VOC has them."""
        return read_objects(self.data_root, sample, self.class_names, self.classes_uri)

    def _found(self, asked: str | None) -> str:
        """Returns the key in `ANNOTATED` of the annotations that are read."""
        if asked == NONE:
            return NONE
        files = list_files(self.data_root, self.annotation_root, self.mask_suffix, BOXES)
        there = {BOXES_OF if uri.lower().endswith(BOXES) else MASKS_OF for uri in files}
        where = f"{self.data_root.url}/{self.annotation_root}".rstrip("/")
        if asked is None and len(there) > 1:
            raise DatasetError(
                f"{where} has masks and boxes: --annotations masks or boxes says which to read, "
                "and both can share a store, one after the other"
            )
        wanted = there if asked is None else {asked}
        if not wanted <= there or (self.annotation_root and not there):
            raise DatasetError(
                f"{where} has no {asked or 'masks and no boxes'}: they have their picture's name "
                f"and end in {self.mask_suffix} (masks) or {BOXES} (boxes); check "
                "--annotation_root and --annotations"
            )
        return wanted.pop() if wanted else NONE

    def _read_classes(self) -> tuple[str, ...]:
        where = f"{self.data_root.url}/{self.classes_uri}"
        try:
            names = read_list(self.data_root, self.classes_uri)
        except FileNotFoundError:
            raise DatasetError(
                f"there are masks or boxes, but no class names at {where}: write them there, one a "
                "line, in the order of their ids, or name the file with --classes, or take the "
                "pictures alone with --annotations none"
            ) from None
        if self.annotated.has_boxes and names[:1] != [BACKGROUND]:
            names = [BACKGROUND, *names]
        if not 1 <= len(names) <= IGNORE_LABEL or len(set(names)) < len(names):
            raise DatasetError(
                f"{where} has {len(names)} class names, {len(names) - len(set(names))} of them "
                f"twice: there must be 1 to {IGNORE_LABEL}, each once, one a line; correct it"
            )
        return tuple(names)

    def _folder(self, split: str) -> str:
        """Returns the folder of a split's pictures."""
        folders = list_folders(self.data_root, "")
        if split in folders:
            return split
        if any("/" not in uri for uri in self._pictures("")):
            return ""
        raise DatasetError(
            f"{self.data_root.url} has neither a folder {split} nor pictures in itself (names that "
            f"end in {' '.join(PICTURES)}); check --data_root, and --split, which names the folder "
            f"(there are: {', '.join(folders) or 'no folders'})"
        )

    def _pictures(self, folder: str) -> dict[str, int]:
        """Returns the paths and lengths in bytes of a folder's pictures, without any masks."""
        below = f"{self.annotation_root}/" if self.annotation_root else "\0"
        return {
            uri: length
            for uri, length in list_files(self.data_root, folder, *PICTURES).items()
            if not (uri.lower().endswith(MASK) or uri.startswith(below))
        }

    def _require_one(self, folder: str, uris: list[str], sizes: list[tuple[int, int]]) -> None:
        where = f"{self.data_root.url}/{folder}".rstrip("/")
        if not uris:
            raise DatasetError(
                f"no picture in {where}: their names end in {' '.join(PICTURES)}; check "
                "--data_root and --split"
            )
        if all(size == UNREAD for size in sizes):
            try:
                read_pixels(self.data_root, uris[0])
            except DatasetError as error:
                raise DatasetError(
                    f"none of the {len(uris)} files in {where} that are called pictures is one; of "
                    f"the first: {error}; check --data_root and --split"
                ) from error

    def _annotations(self, folder: str, split: str) -> dict[str, str]:
        """Returns the annotations' paths by the names that their pictures have."""
        if not self.task:
            return {}
        if self.annotation_root:
            inside = split in list_folders(self.data_root, self.annotation_root)
            folder = f"{self.annotation_root}/{split}" if inside else self.annotation_root
        suffix = BOXES if self.annotated.has_boxes else self.mask_suffix
        return find_files(self.data_root, folder, suffix, any_case=True).uris

    def _say_lonely(self, split: str, names: list[str], found: dict[str, str]) -> None:
        lacking = [name for name in names if name not in found] if self.task else []
        lonely = [found[name] for name in sorted(found.keys() - set(names))]
        if lacking:
            _LOG.warning(
                "%d of %d pictures of %s have no annotation and are encoded without, the first is "
                "%s",
                *(len(lacking), len(names), split, lacking[0]),
            )
        if lonely:
            _LOG.warning(
                "%d annotations of %s have no picture and are left out, the first is %s",
                *(len(lonely), split, lonely[0]),
            )


def _name(uri: str, folder: str) -> str:
    """Returns a picture's path below a folder without its suffix, in Unicode form NFC."""
    path = PurePosixPath(uri.removeprefix(f"{folder}/") if folder else uri)
    return normal_id(str(path.with_suffix("")))
