"""Pictures in and out of the codec: decoding with Pillow, padding, tensors, PSNR.

How pixels come out of a file is part of the latents' identity (`pillow-rgb8-1`): RGB, 8 bits,
no colour management and no rotation, since labels lie on the pixels as stored.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from latent_store.errors import DatasetError, LatentStoreError
from latent_store.format.schema import PAD_MULTIPLE

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
"""Formats that are read. Pillow knows more, and starts Ghostscript for one of them."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FILTERS = threading.Lock()
"""Filters of warnings are the process's: one thread at a time sets them."""


def read_image(source: str | Path | BinaryIO) -> np.ndarray:
    """Reads a picture as uint8 RGB [H, W, 3].

    Greyscale, palette and CMYK are converted, transparency is dropped, of 16-bit grey the upper
    byte is taken (as Pillow does for 16-bit colour), of several pictures in a file the first.

    Args:
        source: A path, or a file opened for reading bytes.

    Raises:
        DatasetError: The file is missing, truncated, no picture, too large, or of 32 bits a sample;
            names it and the reason.
    """
    name = source if isinstance(source, str | Path) else getattr(source, "name", "the picture")
    try:
        if isinstance(source, str | Path):
            if Path(source).exists() and not Path(source).is_file():  # a pipe would be waited for
                raise DatasetError("it is no regular file")
            data = Path(source).read_bytes()
        else:
            data = source.read()
        with opened_picture(data) as image:
            return _to_rgb(image)
    except (OSError, DatasetError) as error:
        raise DatasetError(
            f"cannot read picture {name}: {error}; replace or remove that file"
        ) from error


@contextlib.contextmanager
def opened_picture(data: bytes) -> Iterator[Image.Image]:
    """Opens a picture's file; its pixels are decoded when they are asked for.

    Text, colour profiles and the like are not looked at in a PNG, whatever their size: pixels do
    not depend on them. Pillow's warnings name no file and tell nothing of the pixels: left out.

    Raises:
        DatasetError: Whatever Pillow came upon here or in the block, in one line without the name.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(b"".join(_pixel_chunks(data))), formats=FORMATS)
        with image:
            yield image
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        reason = f"is damaged, or none of {kinds}" if data else "has no bytes"
        raise DatasetError(f"cannot identify image file: it {reason}") from error
    except Exception as error:  # A decoder raises anything, a MemoryError among it.
        reason = " ".join(str(error).split()).rstrip(".")
        raise DatasetError(reason or type(error).__name__) from error


def pad_image(image_HWC: np.ndarray) -> np.ndarray:
    """Pads a picture right and bottom to multiples of 64, by repeating its last row and column.

    Never centred, so that labels stay on the latent's grid; never black, since edges cost bits.

    Args:
        image_HWC: Any type, [H, W, 3].

    Returns:
        The same type, [64·⌈H/64⌉, 64·⌈W/64⌉, 3].
    """
    height, width = image_HWC.shape[:2]
    margins = ((0, -height % PAD_MULTIPLE), (0, -width % PAD_MULTIPLE), (0, 0))
    return np.pad(image_HWC, margins, mode="edge")


def image_to_tensor(image_HWC: np.ndarray) -> Tensor:
    """Returns uint8 [H, W, 3] as float32 [1, 3, H, W] in [0, 1], in channels_last memory."""
    return torch.tensor(image_HWC).permute(2, 0, 1)[None].float().div_(255)


def tensor_to_image(x_hat_BCHW: Tensor) -> np.ndarray:
    """Returns float [B, 3, H, W] as uint8 [B, H, W, 3]: clamped to [0, 1] and rounded to 8 bits."""
    rounded = x_hat_BCHW.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).cpu().contiguous().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the PSNR in dB of two uint8 pictures over all samples; infinite if they are equal.

    Give both at the original size: the padding is no part of a picture.

    Raises:
        LatentStoreError: Their shapes differ.
    """
    if a.shape != b.shape:
        raise LatentStoreError(
            f"PSNR needs pictures of one size, got {a.shape} and {b.shape}; crop the padding"
        )
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    """Yields a PNG without the chunks that say nothing of its pixels; other files whole."""
    if not data.startswith(_PNG):
        yield data
        return
    yield _PNG
    start = len(_PNG)
    while len(data) - start >= 8:
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            break
        # A small first letter: nobody needs it; but of a palette's colours it says which are clear.
        if kind[:1].isupper() or kind == b"tRNS":
            yield data[start:end]
        start = end
    yield data[start:]


def _to_rgb(image: Image.Image) -> np.ndarray:
    if not (image.width and image.height):
        raise ValueError("it has no pixels")
    # A PGM of 16 bits is opened as 32, with values up to 65535.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has 32 bits a sample, 8 or 16 are supported")
    if image.mode == "P" and np.asarray(image).max() >= len(image.getpalette() or ()) // 3:
        raise ValueError("its palette lacks colours that its pixels have")
    if image.mode == "P" and "transparency" in image.info:
        # By way of RGBA: Pillow warns about dropping a palette's transparency.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
