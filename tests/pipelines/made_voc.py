"""Writes small data roots in the devkit's layout, file by file, so that each can be made wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.scenes.voc_scenes import write_mask
from training.tasks.classes import VOC_CLASSES

Object = tuple[str, tuple[float, float, float, float], int, int]
"""Class name, the devkit's xmin, ymin, xmax, ymax, difficult, truncated."""

SIZES = {"000001": (100, 150), "000002": (120, 64), "000003": (60, 70), "000004": (100, 150)}
"""Heights and widths of the pictures."""
OBJECTS: dict[str, list[Object]] = {
    "000001": [("car", (11, 21, 60, 80), 0, 1), ("person", (1, 1, 150, 100), 1, 0)],
    "000002": [("dog", (45.70000076293945, 5, 60, 50.5), 0, 0)],
    "000003": [],
    "000004": [("person", (5, 5, 6, 7), 0, 0)] * 3,
}
SEGMENTED = ("000001", "000003")
DETECTED = ("000001", "000002", "000003")
"""Ids of the tasks' lists: two in both, one in one alone; 000004 is in none."""


def write_voc(
    root: Path,
    year: int = 2007,
    *,
    split: str = "trainval",
    segmented: Sequence[str] = SEGMENTED,
    detected: Sequence[str] = DETECTED,
) -> Path:
    """Writes `root/VOCyear` with the four pictures and the lists of one split; returns it."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "SegmentationClass", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        write_picture(folder / f"JPEGImages/{name}.jpg", seed, size)
        write_mask(folder / f"SegmentationClass/{name}.png", made_mask(seed, size))
        write_objects(folder / f"Annotations/{name}.xml", size, OBJECTS[name])
    write_list(folder / f"ImageSets/Segmentation/{split}.txt", segmented)
    write_list(folder / f"ImageSets/Main/{split}.txt", detected)
    return folder


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_picture(path: Path, seed: int, size: tuple[int, int], mode: str = "RGB") -> None:
    """Writes a smooth JPEG of the mode: RGB, L or CMYK."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [127 + 100 * np.sin(x / (9 + c) + seed) * np.cos(y / (11 + c)) for c in range(3)]
    picture = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).convert(mode)
    picture.save(path, quality=90)


def made_mask(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Returns class ids in blocks, with an ignored column, uint8 [H, W]."""
    blocks = np.random.default_rng(seed).integers(0, len(VOC_CLASSES), (8, 8), dtype=np.uint8)
    mask_HW = np.kron(blocks, np.ones((20, 20), np.uint8))[: size[0], : size[1]].copy()
    mask_HW[:, 10] = 255
    return mask_HW


def write_objects(path: Path, size: tuple[int, int], objects: Sequence[Object]) -> None:
    """Writes an annotation as the devkit does; persons have a part with a box of its own."""
    text = f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>"
    for name, edges, difficult, truncated in objects:
        part = f"<part><name>head</name>{_box((2, 2, 3, 3))}</part>" if name == "person" else ""
        text += (
            f"<object><name>{name}</name><pose>Left</pose><truncated>{truncated}</truncated>"
            f"<difficult>{difficult}</difficult>{part}{_box(edges)}</object>"
        )
    path.write_text(f"{text}</annotation>")


def replace_in(path: Path, changes: Mapping[str, str]) -> None:
    """Replaces what must occur in a text file."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def _box(edges: Sequence[float]) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = (f"<{name}>{edge}</{name}>" for name, edge in zip(names, edges, strict=True))
    return f"<bndbox>{''.join(inside)}</bndbox>"
