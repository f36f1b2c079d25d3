"""Procedural street scenes in the layout of PASCAL VOC's devkit, for two tasks at once.

Sizes vary as VOC's do. Boxes and masks are exact: both come from the numbers that every object was
drawn with. Where masks end they have the devkit's void rim, which lies outside of the object here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.random import Generator
from PIL import Image

from latent_store.format.schema import DETECTION, IGNORE_LABEL, SEGMENTATION
from pipelines.datasets.voc import ANNOTATIONS, FILES, IMAGES, MASKS
from pipelines.scenes.camera import Label
from pipelines.scenes.scene import LARGEST, Scene, closed_up, render_scene
from pipelines.scenes.sets import SceneSet
from training.flags import flag
from training.tasks.classes import VOC_CLASSES, voc_colour

VOC_NAMES: dict[int, str] = {
    Label.PERSON: "person", Label.RIDER: "person", Label.CAR: "car", Label.BUS: "bus",
    Label.BICYCLE: "bicycle",
}  # fmt: skip
"""Label id of a scene -> VOC's class. VOC's annotators were told that lorries are no cars: trucks
are background, as is everything that cannot be counted."""
SHAPES = ((0.75, 1), (0.75, 1), (0.664, 1), (1, 0.75), (1, 0.664), (0.9, 1), (1, 1))
"""Heights and widths as shares of the longest side; most are VOC's 375x500, 333x500, 500x375."""
ZOOMS = (1.5, 3.5)
PLAIN_ZOOMS = (1.4, 2.8)
"""VOC's photographers frame an object: a picture is cut from a scene that is so much larger."""
UNSEEN, HARD = 0.001, 0.004
"""Shares of a picture's pixels: smaller objects are void and have no box, or are difficult."""
LEAST_SIDE = 4
"""Pixels; what is narrower is void too, however small the picture is."""
JPEG_QUALITY = 92
UNMASKED = 4
"""Every fourth picture of a split has objects and no mask: in the real set most have none."""


@dataclass(frozen=True, kw_only=True)
class VocScenes(SceneSet):
    """Scenes of many sizes, in one year's folder, with the lists of both tasks."""

    longest: int = flag(
        "side of the pictures, in pixels", default=500, least=128, most=int(LARGEST / ZOOMS[1])
    )
    year: int = flag("of the folder and the scenes", default=2007, least=1000, most=9999)

    @property
    def size(self) -> str:
        """The most that the pictures have."""
        return f"up to {self.longest}x{self.longest}"

    @property
    def owned(self) -> tuple[str, list[str]]:
        """The year's folder."""
        return f"VOC{self.year}", [f"VOC{self.year}"]

    def picture_id(self, split: str, number: int) -> str:
        """Returns the id of a split's picture `number`, from 0: as the devkit numbers them."""
        number += 1 if split == "train" else 1 + self.train
        # Ids of 2007 are bare numbers, later ones begin with their year; so years can be joined.
        return f"{number:06d}" if self.year == 2007 else f"{self.year}_{number:06d}"

    def scene(self, index: int) -> Scene:
        """Draws one scene in a size of its own; years share none."""
        rng = np.random.default_rng((self.seed, self.year, index))
        height, width = (round(self.longest * side) for side in rng.choice(SHAPES))
        zoom = rng.uniform(*(PLAIN_ZOOMS if self.plain else ZOOMS))
        whole = (round(height * zoom), round(width * zoom))
        scene = render_scene(self.seed * 10_000 + self.year, index, *whole, plain=self.plain)
        return _framed(scene, rng, height, width)

    def write_scene(self, root: Path, split: str, number: int, index: int) -> None:
        """Writes a scene's picture, its objects and, of most, its mask."""
        name, scene = self.picture_id(split, number), self.scene(index)
        mask_HW, objects = voc_annotation(scene)
        folder, segmented = root / f"VOC{self.year}", _is_segmented(number)
        for kind in (IMAGES, MASKS, ANNOTATIONS):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image_HWC).save(folder / IMAGES / f"{name}.jpg", quality=JPEG_QUALITY)
        path = folder / ANNOTATIONS / f"{name}.xml"
        write_objects(path, mask_HW.shape, objects, segmented=segmented)
        if segmented:
            write_mask(folder / MASKS / f"{name}.png", mask_HW)

    def generate(self, root: Path, *, overwrite: bool = False) -> int:
        """Draws and writes all scenes, and the lists train, val and trainval of both tasks."""
        count = super().generate(root, overwrite=overwrite)
        masked = [(split, number) for split, number in self.pictures if _is_segmented(number)]
        for task, listed in ((DETECTION, self.pictures), (SEGMENTATION, masked)):
            folder = root / f"VOC{self.year}" / FILES[task].lists
            folder.mkdir(parents=True)
            for name in ("train", "val", "trainval"):
                ids = [self.picture_id(split, k) for split, k in listed if split in name]
                (folder / f"{name}.txt").write_text("".join(f"{one}\n" for one in ids))
        return count


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One object as the devkit writes it: inclusive xmin, ymin, xmax, ymax in pixels from 1."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool
    truncated: bool


def voc_annotation(scene: Scene) -> tuple[np.ndarray, list[VocObject]]:
    """Returns a scene's mask of class ids, uint8 [height, width], 255 = void, and its objects."""
    height, width = scene.label_ids_HW.shape
    mask_HW = np.zeros((height, width), np.uint8)
    objects = []
    for number in range(1, int(scene.instance_ids_HW.max(initial=0)) + 1):
        inside_HW = scene.instance_ids_HW == number
        name = VOC_NAMES.get(int(scene.label_ids_HW[inside_HW][0]))
        if name is None:
            continue
        ys, xs = np.nonzero(inside_HW)
        left, top, right, bottom = (int(n) for n in (xs.min(), ys.min(), xs.max(), ys.max()))
        share = len(ys) / (height * width)
        if share < UNSEEN or min(right - left, bottom - top) + 1 < LEAST_SIDE:
            mask_HW[inside_HW] = IGNORE_LABEL
            continue
        mask_HW[inside_HW] = VOC_CLASSES.index(name)
        found = VocObject(
            name=name,
            box=(left + 1, top + 1, right + 1, bottom + 1),
            difficult=share < HARD,
            truncated=not (left > 0 and top > 0 and right < width - 1 and bottom < height - 1),
        )
        objects.append(found)
    mask_HW[_rim(mask_HW)] = IGNORE_LABEL
    return mask_HW, objects


def write_mask(path: Path, mask_HW: np.ndarray) -> None:
    """Writes a palette PNG in the devkit's colours."""
    image = Image.fromarray(mask_HW)
    image.putpalette([channel for label in range(256) for channel in voc_colour(label)])
    image.save(path)


def write_objects(
    path: Path, size: tuple[int, ...], objects: Iterable[VocObject], *, segmented: bool
) -> None:
    """Writes an annotation as the devkit's are: `path` is `VOCyear/Annotations/ID.xml`, `size` is
    height and width, `segmented` whether there is a mask too.
    """
    root = ET.Element("annotation")
    about = {"folder": path.parent.parent.name, "filename": f"{path.stem}.jpg"}
    shape = {"width": size[1], "height": size[0], "depth": 3}
    _add(root, {**about, "source": {"database": "procedural street scenes"}, "size": shape})
    _add(root, {"segmented": int(segmented)})
    for found in objects:
        flags = {"truncated": int(found.truncated), "difficult": int(found.difficult)}
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), found.box, strict=True))
        about = {"name": found.name, "pose": "Unspecified"}
        _add(root, {"object": {**about, **flags, "bndbox": box}})
    ET.indent(root, "\t")
    path.write_text(f"{ET.tostring(root, encoding='unicode')}\n")


def _framed(scene: Scene, rng: Generator, height: int, width: int) -> Scene:
    """Cuts a picture around an object of VOC's classes, the larger the likelier."""
    numbers_HW = scene.instance_ids_HW * np.isin(scene.label_ids_HW, list(VOC_NAMES))
    areas = np.bincount(numbers_HW.ravel())
    areas[0] = not areas[1:].any()  # without an object, anywhere
    number = rng.choice(len(areas), p=areas / areas.sum())
    ys, xs = np.nonzero(numbers_HW == number)
    window = []
    for places, side, whole in zip((ys, xs), (height, width), numbers_HW.shape, strict=True):
        middle = (places.min() + places.max()) / 2 + rng.uniform(-0.3, 0.3) * side
        start = min(max(round(middle - side / 2), 0), whole - side)
        window.append(slice(start, start + side))
    image_HWC, labels_HW, instances_HW = (
        array[*window] for array in (scene.image_HWC, scene.label_ids_HW, scene.instance_ids_HW)
    )
    return Scene(
        image_HWC=np.ascontiguousarray(image_HWC),
        label_ids_HW=labels_HW,
        instance_ids_HW=closed_up(instances_HW),
    )


def _is_segmented(number: int) -> bool:
    return number % UNMASKED != UNMASKED - 1


def _rim(mask_HW: np.ndarray) -> np.ndarray:
    """Returns where the background touches an object, bool [height, width]."""
    solid_HW = np.pad((mask_HW > 0) & (mask_HW != IGNORE_LABEL), 1)
    near_HW = solid_HW[:-2, 1:-1] | solid_HW[2:, 1:-1] | solid_HW[1:-1, :-2] | solid_HW[1:-1, 2:]
    return near_HW & (mask_HW == 0)


def _add(parent: ET.Element, content: Mapping[str, object]) -> None:
    for tag, value in content.items():
        child = ET.SubElement(parent, tag)
        if isinstance(value, Mapping):
            _add(child, value)
        else:
            child.text = str(value)
