"""Files of a data root: listed through links and without strays, lists in every encoding."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines.datasets.listing import find_files, list_files, list_folders, read_list

E_COMPOSED, E_DECOMPOSED = "\u00e9", "e\u0301"


def write(path: Path, data: bytes = b"12345") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    write(root / "split/aachen/a.png")
    write(disk / "bonn/b.png")
    write(disk / "far/deep/c.png")
    (root / "split/bonn").symlink_to(disk / "bonn")
    (root / "split/chain").symlink_to("second")
    (root / "split/second").symlink_to(disk / "far")
    (disk / "far/deep/back").symlink_to(root / "split")
    (root / "split/up").symlink_to("..")
    (root / "split/self").symlink_to("self")
    (root / "split/aachen/linked.png").symlink_to(disk / "bonn/b.png")
    assert list_files(Location(root), "split", ".png") == {
        "split/aachen/a.png": 5,
        "split/aachen/linked.png": 5,
        "split/bonn/b.png": 5,
        "split/chain/deep/c.png": 5,
        "split/second/deep/c.png": 5,
    }
    assert list_folders(Location(root), "split") == ["aachen", "bonn", "chain", "second", "up"]


def test_two_folders_that_hold_links_to_each_other(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png")
    write(tmp_path / "b/2.png")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    found = list_files(Location(tmp_path), "", ".png")
    assert list(found) == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_what_other_systems_strew_is_left_out(tmp_path: Path, scheme: str) -> None:
    location = Location(f"{scheme}{tmp_path}")
    for name in ("city/a.png", "city/._a.png", ".Trash/b.png", "city/.DS_Store", "city/C.PNG"):
        location.write(name, b"12345")
    assert list_files(location, "city", ".png") == {"city/C.PNG": 5, "city/a.png": 5}
    assert list_files(location, "", ".png") == {"city/C.PNG": 5, "city/a.png": 5}
    assert list_files(location, "none", ".png") == {}
    assert list_folders(location, "none") == []
    found = find_files(location, "city", ".png")
    assert found.uris == {"a": "city/a.png"}
    assert found.aside == " (city/C.PNG does not count: names end in .png, in this case)"
    if scheme:
        fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)


def test_what_is_no_file_is_listed_if_its_name_is_one(tmp_path: Path) -> None:
    write(tmp_path / "city/a.png/inside.png")
    os.mkfifo(tmp_path / "city/b.png")
    (tmp_path / "city/c.png").symlink_to("nowhere")
    (tmp_path / "city/d.png").symlink_to("d.png")
    listed = list_files(Location(tmp_path), "city", ".png")
    assert list(listed) == [f"city/{name}.png" for name in "abcd"]
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "broken").symlink_to("nowhere")
    for name in ("circle", "broken"):
        assert list_files(Location(tmp_path), name, ".png") == {}
        assert list_folders(Location(tmp_path), name) == []


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    write(tmp_path / f"city/{E_DECOMPOSED}.png")
    found = find_files(Location(tmp_path), "city", ".PNG", any_case=True)
    assert found.uris == {E_COMPOSED: f"city/{E_DECOMPOSED}.png"}
    found = find_files(Location(tmp_path), "city", ".png")
    assert found.uris == {E_COMPOSED: f"city/{E_DECOMPOSED}.png"}
    write(tmp_path / f"city/{E_COMPOSED}.png")
    with pytest.raises(
        DatasetError, match=r"'city/e\\u0301.png' and 'city/\\xe9.png' are one name"
    ):
        find_files(Location(tmp_path), "city", ".png")
    write(tmp_path / "town/a.png")
    write(tmp_path / "town/a.PNG")
    with pytest.raises(
        DatasetError, match=r"'town/a\.PNG' and 'town/a\.png' are one name, in two Un"
    ):
        find_files(Location(tmp_path), "town", ".png", any_case=True)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a\nb c\né\n", "utf-8"),
        ("a\r\nb c\r\né\r\n", "utf-8-sig"),
        ("a\r\nb c\r\né", "utf-16"),
        ("\ufeffa\n\n  b c \t\n\né  \n", "utf-16-be"),
        ("\ufeffa\nb c\n\ufeffé\n\ufeff\n", "utf-8"),
    ],
)
def test_lists_are_read_in_their_encoding(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_list(Location(tmp_path), "a.txt") == ["a", "b c", "é"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            "é\n".encode("latin-1"),
            "is no text in utf-8 (invalid continuation byte at byte 0); save",
        ),
        (
            "中\n".encode("gbk"),
            "is no text in utf-8 (invalid continuation byte at byte 0); save it",
        ),
        ("a\n".encode("utf-16-le"), "has zero bytes, as UTF-16 without its mark at the beginning"),
        (b"\xff\xfea", "is no text in utf-16-le (truncated data at byte 2); save it as UTF-8"),
    ],
)
def test_lists_in_no_known_encoding(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        read_list(Location(tmp_path), "a.txt")
    assert str(caught.value).startswith(f"a.txt {words}")


def test_a_list_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match=r"a\.txt is no regular file"):
        read_list(Location(tmp_path), "a.txt")
    with pytest.raises(FileNotFoundError):
        read_list(Location(tmp_path), "b.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list anything")
def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path) -> None:
    write(tmp_path / "city/a.png")
    (tmp_path / "city").chmod(0)
    with pytest.raises(PermissionError):
        list_files(Location(tmp_path), "", ".png")
