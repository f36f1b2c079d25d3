"""Pictures and label maps of every kind: read if their pixels are whole, else refused by name."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_store.errors import DatasetError
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from pipelines.datasets.files import UNREAD, picture_sizes, read_label_map, read_pixels
from pipelines.datasets.voc import LABELS
from tests.pipelines.made_pictures import BROKEN, MIB, WHOLE, png_header, saved, with_chunk

SIZE = (40, 60)


@pytest.fixture
def picture() -> Image.Image:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    waves = [127 + 100 * np.sin(x / (9 + c)) * np.cos(y / (11 + c)) for c in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def planned_size(folder: Path, name: str) -> tuple[int, int]:
    return picture_sizes(Location(folder), [name])[0]


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_pixels_are_read_whatever_else_is_odd(
    tmp_path: Path, picture: Image.Image, kind: str
) -> None:
    data = WHOLE[kind](picture)
    # Readers go by the content, as the suffixes of real sets are often wrong.
    (tmp_path / "a.png").write_bytes(data)
    image_HWC, read = read_pixels(Location(tmp_path), "a.png")
    assert read == data
    assert planned_size(tmp_path, "a.png") == image_HWC.shape[:2] == SIZE
    shown = {"grey": "L", "black and white": "1"}.get(kind, "RGB")
    expected = picture.convert("P" if kind.startswith("palette") else shown).convert("RGB")
    error = np.abs(image_HWC.astype(int) - np.asarray(expected).astype(int)).mean()
    # These two change pixels when they are written.
    assert error < 6 if "jpeg" in kind or kind == "gif" else error == 0


@pytest.mark.parametrize("kind", BROKEN)
def test_others_are_refused_by_name_in_the_same_words(
    tmp_path: Path, picture: Image.Image, kind: str
) -> None:
    (tmp_path / "a.png").write_bytes(BROKEN[kind](picture))
    words = set()
    for _ in range(2):
        with pytest.raises(DatasetError) as caught:
            read_pixels(Location(tmp_path), "a.png")
        words.add(str(caught.value))
    (line,) = words
    assert line.startswith("cannot read picture a.png: ")
    assert line.endswith("; replace or remove that file")
    assert line.isprintable()
    assert planned_size(tmp_path, "a.png") in (UNREAD, SIZE)


def test_a_large_picture_is_no_bomb(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from 89 million pixels on, and refuses from 179 million on."""
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_000))
    assert planned_size(tmp_path, "a.png") == (10_000, 10_000)
    picture.save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    np.testing.assert_array_equal(read_pixels(Location(tmp_path), "b.png")[0], picture)


def test_16_bits_give_their_upper_byte(tmp_path: Path) -> None:
    grey_HW = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) * 27
    Image.fromarray(grey_HW).save(tmp_path / "a.png")
    image_HWC, _ = read_pixels(Location(tmp_path), "a.png")
    np.testing.assert_array_equal(image_HWC, np.repeat((grey_HW >> 8)[..., None], 3, axis=2))


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with (tmp_path / "endless.png").open("wb") as file:
        file.truncate(2 << 30)
    for name, words in (
        ("folder", "is no regular file; replace it by one, or take it out"),
        ("pipe", "is no regular file"),
        ("device", "is no regular file"),
        ("broken", "is missing; restore it"),
        ("none", "is missing; restore it"),
        ("circle", "cannot be read (Too many levels of symbolic links); restore it"),
        ("endless", "has 2147483648 bytes, more than the 1073741824 that such a file may have"),
    ):
        with pytest.raises(DatasetError) as caught:
            read_pixels(Location(tmp_path), f"{name}.png")
        assert str(caught.value).startswith(f"{name}.png {words}")
        assert picture_sizes(Location(tmp_path), [f"{name}.png"]) == [UNREAD]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DatasetError, match=r"a\.png cannot be read \(Permission denied\)"):
        read_pixels(Location(tmp_path), "a.png")


def test_a_store_that_is_away_is_no_bad_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(tmp_path)
    (tmp_path / "a.png").touch()

    def away(*_: object, **__: object) -> bytes:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(location.fs, "cat_file", away)
    with pytest.raises(ConnectionResetError):
        picture_sizes(location, ["a.png"])


def test_pictures_of_an_object_store(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(f"memory://{tmp_path}")
    location.write("a.png", WHOLE["text of 2 MiB"](picture))
    location.write("empty.png", b"")
    np.testing.assert_array_equal(read_pixels(location, "a.png")[0], picture)
    whole = location.fs.cat_file

    def as_s3_does(path: str, start: int | None = None, end: int | None = None) -> bytes:
        if end and not location.fs.size(path):
            raise OSError(errno.EINVAL, "The requested range is not satisfiable")
        return bytes(whole(path, start=start, end=end))

    monkeypatch.setattr(location.fs, "cat_file", as_s3_does)
    assert picture_sizes(location, ["a.png", "empty.png", "none.png"]) == [SIZE, UNREAD, UNREAD]
    location.delete_tree("")


LABEL_MAP = np.tile(np.arange(20, dtype=np.uint8), (SIZE[0], 3))


def label_sample() -> Sample:
    return Sample(
        sample_id="a", image_uri="a.jpg", label_uri="a.png",
        height=SIZE[0], width=SIZE[1], image_bytes=9,
    )  # fmt: skip


def _palette(labels_HW: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels_HW).convert("P")
    image = Image.fromarray(labels_HW, "P") if image.mode != "P" else image
    image.putpalette(bytes(range(256)) * 3)
    return image


@pytest.mark.parametrize("kind", ["grey", "palette", "text", "animation"])
def test_label_maps_are_read(tmp_path: Path, kind: str) -> None:
    grey = Image.fromarray(LABEL_MAP)
    data = {
        "grey": saved(grey, "PNG"),
        "palette": saved(_palette(LABEL_MAP), "PNG"),
        "text": with_chunk(saved(grey, "PNG"), b"tEXt", b"Comment\0" + bytes(2 * MIB)),
        "animation": with_chunk(saved(grey, "PNG"), b"acTL", struct.pack(">II", 2, 0)),
    }[kind]
    (tmp_path / "a.png").write_bytes(data)
    read = read_label_map(Location(tmp_path), label_sample(), LABELS, "class ids are 0 to 20")
    np.testing.assert_array_equal(read, LABEL_MAP)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(Image.fromarray(LABEL_MAP), "JPEG", quality=95), "is no PNG but JPEG, whatever its"),
        (saved(Image.fromarray(LABEL_MAP), "BMP"), "is no PNG but BMP, whatever its name says"),
        (saved(Image.fromarray(LABEL_MAP.astype(np.uint16)), "PNG"), "has mode I;16: masks are"),
        (saved(Image.fromarray(LABEL_MAP).convert("LA"), "PNG"), "has mode LA: masks are palette"),
        (saved(Image.fromarray(LABEL_MAP).convert("RGBA"), "PNG"), "has mode RGBA: masks are"),
        (saved(Image.fromarray(LABEL_MAP).convert("1"), "PNG"), "has mode 1: masks are palette"),
        (saved(Image.fromarray(LABEL_MAP[:, 1:]), "PNG"), "is 40x59, its image is 40x60 (height"),
        (saved(Image.fromarray(LABEL_MAP.T), "PNG"), "is 60x40, its image is 40x60 (height x"),
        (saved(Image.fromarray(LABEL_MAP + 2), "PNG"), "holds the value 21: class ids are 0 to 20"),
        (png_header(13_000, 13_000), "is 13000x13000, its image is 40x60 (height x width): masks"),
        (png_header(20_000, 10_000), "is no readable PNG (Image size (200000000 pixels) exceeds"),
        (b"", "is no readable PNG (cannot identify image file: it has no bytes); restore it"),
    ],
)
def test_label_maps_that_are_none(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        read_label_map(Location(tmp_path), label_sample(), LABELS, "class ids are 0 to 20")
    assert str(caught.value).startswith(f"a.png {words}")
    assert str(caught.value).endswith(("; restore it", "; correct it"))
