"""Objects of a PASCAL VOC annotation: classes, boxes and flags, or the reason why they are none."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree as ET

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.samples import Sample
from training.tasks.classes import VOC_CLASSES

BEYOND = 1
"""Pixels by which a box may leave its picture. The real set has boxes that touch the edge + 1; the
devkit scores them as they are written, so they are stored as they are written."""

_LABEL_IDS = {name: label for label, name in enumerate(VOC_CLASSES) if label}
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""Python's own reader takes more for a number: `1_1`, `nan`, the digits of every script."""
_OBJECT, _BOX = "object", "bndbox"


def read_objects(annotation: ET.Element, sample: Sample) -> Boxes:
    """Reads the objects of an `annotation` element, in their order.

    Raises:
        DatasetError: An object has an unknown class, no box or several, an inverted one, or one
            that is not in the picture; or lies where the devkit has none.
    """
    # Of the root itself: the parts of a person are inside of its object.
    objects = annotation.findall(_OBJECT)
    _require_layout(annotation, objects)
    found = [_read_object(element, sample) for element in objects]
    columns: list[Any] = list(zip(*found, strict=True)) if found else [()] * 4
    edges, labels, difficult, truncated = columns
    return Boxes(boxes_N4=edges, labels_N=labels, difficult_N=difficult, truncated_N=truncated)


def _require_layout(annotation: ET.Element, objects: list[ET.Element]) -> None:
    """Refuses objects and boxes that nobody would find: converters put them elsewhere."""
    inside = {id(e) for element in objects for e in element.iter()}
    for element in annotation.iter():
        name = str(element.tag).lower().rstrip("s")
        if id(element) not in inside and name in (_OBJECT, _BOX):
            raise DatasetError(
                f"it has <{element.tag}> where the devkit has none: objects are <{_OBJECT}>, "
                f"directly in <{annotation.tag}>, and each has its <{_BOX}>"
            )


def _read_object(
    element: ET.Element, sample: Sample
) -> tuple[tuple[float, float, float, float], int, bool, bool]:
    """Returns half-open edges from 0, class id, difficult, truncated."""
    name = _text(element, "name", "an object")
    if not name:
        raise DatasetError("an object has no name")
    if name not in _LABEL_IDS:
        raise DatasetError(
            f"an object is a {name!r}, which is none of VOC's classes: {', '.join(_LABEL_IDS)}"
        )
    boxes = element.findall(_BOX)
    if len(boxes) != 1:
        raise DatasetError(f"the {name} has {len(boxes) or 'no'} {_BOX}")
    written = tuple(_number(boxes[0], edge, name) for edge in _EDGES)
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
    difficult, truncated = (_flag(element, flag, name) for flag in ("difficult", "truncated"))
    return (x1, y1, x2, y2), _LABEL_IDS[name], difficult, truncated


def _text(element: ET.Element, tag: str, owner: str) -> str:
    found = element.findall(tag)
    if len(found) > 1:
        raise DatasetError(f"{owner} has {tag} {len(found)} times")
    return (found[0].text or "").strip() if found else ""


def _number(box: ET.Element, edge: str, name: str) -> float:
    text = _text(box, edge, f"the box of the {name}")
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise DatasetError(f"the box of the {name} has {edge} {text!r}, which is no number")
    return value


def _flag(element: ET.Element, tag: str, name: str) -> bool:
    # As the devkit has it: what is not marked is not so.
    text = _text(element, tag, f"the {name}") or "0"
    if text not in ("0", "1"):
        raise DatasetError(f"the {name} has {tag} {text!r}, which is neither 0 nor 1")
    return text == "1"
