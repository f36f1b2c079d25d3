"""XML annotations of a PASCAL VOC devkit: decoded as they declare, and their objects, with classes,
boxes and flags, or the reason why they are none."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from pipelines.datasets.files import read_file

MOST_BYTES = 1 << 22
"""Bytes of the longest annotation that is read: some ten thousand objects."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0?\0": "utf-16-le",
    b"\0<\0?": "utf-16-be",
}
_DECLARED = re.compile(rb"""\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}
"""As browsers have it: what declares the narrow one is written with the wide one's letters."""
_NO_CHARSETS = {"idna", "punycode", "raw-unicode-escape", "unicode-escape"}
"""Python's own ways of writing text, which no file declares."""

BEYOND = 1
"""Pixels by which a box may leave its picture. The real set has boxes that touch the edge + 1; the
devkit scores them as they are written, so they are stored as they are written."""

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""Python's own reader takes more for a number: `1_1`, `nan`, the digits of every script."""
_SHOWN = 100
"""Characters of what a file says that messages quote."""
_ROOT, _OBJECT, _BOX = "annotation", "object", "bndbox"


def read_annotation(location: Location, uri: str) -> ET.Element:
    """Reads an XML file that is an `annotation` element, in which none is of a namespace.

    Raises:
        DatasetError: The file is missing, no XML, or another kind of XML; names it.
    """
    data = read_file(location, uri, most=MOST_BYTES)
    try:
        text = _decoded(data)
        # Entities can make a small file endless, and no annotation has a use for them.
        if "<!ENTITY" in text:
            raise ValueError("it declares entities")
        element = ET.fromstring(text)
    except (ET.ParseError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{uri} is no readable XML ({reason}); restore it") from error
    if element.tag != _ROOT:
        raise DatasetError(
            f"{uri} begins with <{_shown(element.tag)}>: such an annotation begins with <{_ROOT}>, "
            "without a namespace; convert it"
        )
    foreign = next((e.tag for e in element.iter() if "}" in str(e.tag)), None)
    if foreign is not None:
        raise DatasetError(
            f"{uri} has <{_shown(foreign)}>: such an annotation has no namespaces; convert it"
        )
    return element


def _decoded(data: bytes) -> str:
    """Returns the text, by its mark, or by what it declares, or as UTF-8.

    Expat itself knows four encodings and Python's door to it none of several bytes.
    """
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return data.decode(marked)
    declared = _DECLARED.match(data)
    if declared is None:
        return data.decode("utf-8")
    name = codecs.lookup(declared[1].decode("ascii")).name
    if name in _NO_CHARSETS:
        raise LookupError(f"unknown encoding: {name}")
    return data.decode(_WIDER.get(name, name))


def _shown(tag: str) -> str:
    return tag[:_SHOWN] if tag.isprintable() else repr(tag[:_SHOWN])


def read_objects(
    location: Location, sample: Sample, class_names: Sequence[str], whose: str
) -> Boxes:
    """Reads a sample's objects in the order of its file.

    Args:
        location: The data root.
        sample: Its `boxes_uri` is read.
        class_names: By class id; the first is the background, which no object is.
        whose: What messages call these names.

    Raises:
        DatasetError: As `read_annotation`; or an object has an unknown class, no box or several, an
            inverted one, or one that is not in the picture; or lies where the devkit has none.
    """
    annotation = read_annotation(location, sample.boxes_uri)
    # Of the root itself: the parts of a person are inside of its object.
    objects = annotation.findall(_OBJECT)
    label_ids = {name: label for label, name in enumerate(class_names) if label}
    try:
        _require_layout(annotation, objects)
        found = [_read_object(element, sample, label_ids, whose) for element in objects]
    except DatasetError as error:
        raise DatasetError(f"{sample.boxes_uri}: {error}; correct that object") from error
    columns: list[Any] = list(zip(*found, strict=True)) if found else [()] * 4
    edges, labels, difficult, truncated = columns
    return Boxes(boxes_N4=edges, labels_N=labels, difficult_N=difficult, truncated_N=truncated)


def _require_layout(annotation: ET.Element, objects: list[ET.Element]) -> None:
    """Refuses objects and boxes that nobody would find: converters put them elsewhere."""
    inside = {id(e) for element in objects for e in element.iter()}
    found = {id(element) for element in objects}
    for element in annotation.iter():
        name = str(element.tag).lower().rstrip("s")
        # A part of an object has a box of its own.
        lost = name == _OBJECT or (name == _BOX and id(element) not in inside)
        if lost and id(element) not in found:
            raise DatasetError(
                f"it has <{element.tag}> where the devkit has none: objects are <{_OBJECT}>, "
                f"directly in <{_ROOT}>, and each has its <{_BOX}>"
            )


def _read_object(
    element: ET.Element, sample: Sample, label_ids: Mapping[str, int], whose: str
) -> tuple[tuple[float, float, float, float], int, bool, bool]:
    """Returns half-open edges from 0, class id, difficult, truncated."""
    name = _text(element, "name", "an object")
    if not name:
        raise DatasetError("an object has no name")
    if name not in label_ids:
        raise DatasetError(
            f"an object is a {_quoted(name)}, which is none of {whose}: {', '.join(label_ids)}"
        )
    boxes = element.findall(_BOX)
    if len(boxes) != 1:
        raise DatasetError(f"the {name} has {len(boxes) or 'no'} {_BOX}")
    written = tuple(_number(boxes[0], edge, name) for edge in _EDGES)
    xmin, ymin, xmax, ymax = written
    shown = ", ".join(f"{edge} {value:g}" for edge, value in zip(_EDGES, written, strict=True))
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"the box of the {name} is inverted ({shown})")
    box = (xmin - 1, ymin - 1, xmax, ymax)
    require_inside(box, sample, f"the box of the {name} ({shown})")
    difficult, truncated = (_flag(element, flag, name) for flag in ("difficult", "truncated"))
    return box, label_ids[name], difficult, truncated


def require_inside(box: tuple[float, float, float, float], sample: Sample, what: str) -> None:
    """Refuses half-open edges, from 0, that leave a sample's picture by more than `BEYOND`.

    Raises:
        DatasetError: Names `what`.
    """
    x1, y1, x2, y2 = box
    width, height = sample.width, sample.height
    touches = min(x2, y2) > 0 and x1 < width and y1 < height
    if not touches or max(-x1, -y1, x2 - width, y2 - height) > BEYOND:
        raise DatasetError(
            f"{what} leaves the picture of {width}x{height} (width x height) by more than {BEYOND} "
            "pixel, or is not in it at all"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _text(element: ET.Element, tag: str, owner: str) -> str:
    found = element.findall(tag)
    if len(found) > 1:
        raise DatasetError(f"{owner} has {tag} {len(found)} times")
    return (found[0].text or "").strip() if found else ""


def _number(box: ET.Element, edge: str, name: str) -> float:
    text = _text(box, edge, f"the box of the {name}")
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise DatasetError(f"the box of the {name} has {edge} {_quoted(text)}, which is no number")
    return value


def _flag(element: ET.Element, tag: str, name: str) -> bool:
    # As the devkit has it: what is not marked is not so.
    text = _text(element, tag, f"the {name}") or "0"
    if text not in ("0", "1"):
        raise DatasetError(f"the {name} has {tag} {_quoted(text)}, which is neither 0 nor 1")
    return text == "1"
