"""Reading pictures of every kind, refusing broken ones by name, padding and PSNR."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latent_store.codec import image_to_tensor, pad_image, psnr, read_image, tensor_to_image
from latent_store.errors import DatasetError, LatentStoreError


def test_rgb_comes_back_exactly(tmp_path: Path, picture: Callable) -> None:
    image = picture()
    Image.fromarray(image).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, image)
    assert read.flags.writeable
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(read_image(file), image)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)


@pytest.mark.parametrize(("most", "scale"), [(65535, 257), (4095, 16)])
def test_of_a_pgm_with_more_than_8_bits_the_upper_byte_is_taken(most: int, scale: int) -> None:
    grey = np.arange(0, 256, 5, dtype=">u2")
    data = b"P5 52 1 %d\n" % most + (grey * scale).astype(">u2").tobytes()
    found = read_image(io.BytesIO(data))
    assert found.shape == (1, 52, 3)
    np.testing.assert_array_equal(found[0, :, 0], grey)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_other_modes_become_rgb(tmp_path: Path, picture: Callable, mode: str) -> None:
    image = Image.fromarray(picture(20, 30))
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        image, expected = Image.fromarray(grey << 8 | 7), np.repeat(grey[..., None], 3, axis=2)
    else:
        image = image.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


def test_a_transparent_palette_is_read_without_a_warning(tmp_path: Path, picture: Callable) -> None:
    image = Image.fromarray(picture(20, 30)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_image(tmp_path / "a.png").shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0.03, 0.3, 0.9])
def test_truncated_files_are_named(
    tmp_path: Path, picture: Callable, kind: str, kept: float
) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(picture()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DatasetError, match=rf"cannot read picture .*a\.{kind}: .+; replace or rem"):
        read_image(path)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DatasetError, match=r"a\.png: cannot identify image file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DatasetError, match=r"empty\.png: cannot identify image file"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DatasetError, match=r"none\.png: .*No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DatasetError, match="cannot read picture the picture: cannot identify"):
        read_image(io.BytesIO(b"hello"))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DatasetError, match=r"f\.tif: mode F has 32 bits a sample"):
        read_image(tmp_path / "f.tif")


def test_damaged_pixels_are_noticed(tmp_path: Path, picture: Callable) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r"cannot read picture .*a\.png"):
        read_image(path)


@given(height=st.integers(1, 130), width=st.integers(1, 130))
def test_padding_repeats_the_last_row_and_column(height: int, width: int) -> None:
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3))
    padded = pad_image(image.astype(np.uint8))
    assert padded.dtype == np.uint8
    assert padded.shape == (-(-height // 64) * 64, -(-width // 64) * 64, 3)
    np.testing.assert_array_equal(padded[:height, :width], image)
    assert (padded[height:, :width] == image[-1:]).all()
    assert (padded[:height, width:] == image[:, -1:]).all()
    assert (padded[height:, width:] == image[-1, -1]).all()


def test_tensors_and_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 256, 3)).astype(np.uint8)
    image[0, :, 0] = np.arange(256)
    tensor = image_to_tensor(image)
    assert tensor.shape == (1, 3, 5, 256)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(tensor[0, 0, 0], torch.arange(256) / 255)
    np.testing.assert_array_equal(tensor_to_image(tensor)[0], image)
    wild = torch.tensor([-0.2, 1.7, 0.5]).reshape(1, 3, 1, 1)
    assert tensor_to_image(wild).ravel().tolist() == [0, 255, 128]


def test_psnr() -> None:
    zeros = np.zeros((4, 4, 3), np.uint8)
    assert psnr(zeros, zeros) == float("inf")
    assert psnr(zeros, zeros + 255) == pytest.approx(0)
    assert psnr(zeros, zeros + 1) == pytest.approx(48.1308, abs=1e-4)
    with pytest.raises(LatentStoreError, match=r"PSNR needs pictures of one size, got \(4, 4, 3\)"):
        psnr(zeros, zeros[:2])
