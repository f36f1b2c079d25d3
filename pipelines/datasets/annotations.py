"""XML annotations of a data root: decoded as they declare, and held against what they are for."""

from __future__ import annotations

import codecs
import re
from xml.etree import ElementTree as ET

from latent_store.errors import DatasetError
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


def read_annotation(location: Location, uri: str, root: str) -> ET.Element:
    """Reads an XML file.

    Args:
        location: The data root.
        uri: Path in it.
        root: Name of the element that it must be; none in it may be of a namespace.

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
    if element.tag != root:
        raise DatasetError(
            f"{uri} begins with <{_shown(element.tag)}>: such an annotation begins with <{root}>, "
            "without a namespace; convert it"
        )
    foreign = next((e for e in element.iter() if "}" in str(e.tag)), None)
    if foreign is not None:
        raise DatasetError(
            f"{uri} has <{_shown(foreign.tag)}>: such an annotation has no namespaces; convert it"
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
    return tag[:100] if tag.isprintable() else repr(tag[:100])
