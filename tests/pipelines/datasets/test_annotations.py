"""XML annotations: decoded as they declare, refused if they are no XML or another kind of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines.datasets.annotations import MOST_BYTES, read_annotation


def read(folder: Path, data: bytes) -> str | None:
    (folder / "a.xml").write_bytes(data)
    return read_annotation(Location(folder), "a.xml").findtext("name")


def document(name: str, encoding: str = "") -> str:
    declared = f" encoding='{encoding}'" if encoding else ""
    return f'<?xml version="1.0"{declared}?>\n<annotation><name>{name}</name></annotation>'


@pytest.mark.parametrize(
    ("declared", "written", "name"),
    [
        ("", "utf-8", "é"),
        ("", "utf-8-sig", "é"),
        ("UTF-8", "utf-8", "路"),
        ("utf-8", "utf-8-sig", "路"),
        ("us-ascii", "ascii", "road"),
        ("ISO-8859-1", "latin-1", "é"),
        ("windows-1252", "cp1252", "€"),
        ("gb2312", "gb2312", "路"),
        # A letter that GBK has and GB 2312 lacks, under the name that Chinese tools declare.
        ("gb2312", "gbk", "鎔"),
        ("GBK", "gbk", "鎔"),
        ("gb18030", "gb18030", "路"),
        ("Big5", "big5", "路"),
        ("Shift_JIS", "shift_jis", "路"),
        ("EUC-KR", "euc_kr", "로"),
        ("utf-16", "utf-16", "路"),
        ("UTF-16", "utf-16-le", "路"),
        ("UTF-16", "utf-16-be", "路"),
        ("", "utf-16", "路"),
    ],
)
def test_every_encoding_that_is_declared(
    tmp_path: Path, declared: str, written: str, name: str
) -> None:
    assert read(tmp_path, document(name, declared).encode(written)) == name


LAUGHS = (
    '<!DOCTYPE annotation [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><annotation><name>&j;</name></annotation>"
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no readable XML (no element found: line 1, column 0); restore it"),
        (document("a", "x-unknown").encode(), "is no readable XML (unknown encoding: x-unknown)"),
        (document("a", "hex").encode(), "is no readable XML ("),
        (document("a", "punycode").encode(), "is no readable XML (unknown encoding: punycode)"),
        (document("中", "utf-8").encode("gbk"), "is no readable XML ('utf-8' codec can't decode"),
        (document("a", "utf-16").encode(), "is no readable XML ("),
        (b"<annotation><name>", "is no readable XML (no element found"),
        (b"<annotation>\0</annotation>", "is no readable XML (not well-formed"),
        (b"<annotation>&nbsp;</annotation>", "is no readable XML (undefined entity"),
        (LAUGHS.encode(), "is no readable XML (it declares entities); restore it"),
        (LAUGHS.encode("utf-16"), "is no readable XML (it declares entities); restore it"),
        (b"\xff\xd8\xff\xe0JFIF", "is no readable XML ("),
        (b"<annotations><image><box/></image></annotations>", "begins with <annotations>: such an"),
        (b'<annotation xmlns="http://voc"/>', "begins with <{http://voc}annotation>: such an"),
        (b"<v:annotation xmlns:v='v'/>", "begins with <{v}annotation>: such an annotation begins"),
        (
            b"<annotation xmlns:v='v'><v:object/></annotation>",
            "has <{v}object>: such an annotation",
        ),
        (b"<Annotation/>", "begins with <Annotation>: such an annotation begins with <annotation>"),
        (b"<html/>", "begins with <html>: such an annotation begins with <annotation>, without a"),
        (b" " * (MOST_BYTES + 1), "has 4194305 bytes, more than the 4194304 that such a file"),
    ],
)
def test_others_are_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, data)
    assert str(caught.value).startswith(f"a.xml {words}")
    assert str(caught.value).isprintable()


def test_an_entity_of_another_file_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    data = (
        f'<!DOCTYPE a [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]><annotation>&s;</annotation>'
    )
    with pytest.raises(DatasetError, match="it declares entities"):
        read(tmp_path, data.encode())


def test_elements_within_elements_without_an_end(tmp_path: Path) -> None:
    deep = b"<annotation>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</annotation>"
    assert read(tmp_path, deep) is None
