"""The pictures of the page: small files in its own text, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.reports.pictures import ShownPicture, reduced

BUDGET = 3_400_000
"""Characters of all pictures together: with everything else, the page stays below 5 MB."""
_WIDTHS = (640, 480, 360, 280, 200, 140, 96, 64)
_QUALITY = 80
_FEW_COLOURS = 256


def album(shown: Iterable[tuple[str, ShownPicture]], count: int) -> list[dict[str, Any]]:
    """Returns pictures JSON-ready, each with its images as `data:` addresses.

    Args:
        shown: Why each is shown, "sample" or "worst", and the picture.
        count: How many there are; each gets its share of the budget. The last ones are left out
            where that is too little.
    """
    found, taken = [], 0
    for why, picture in shown:
        entry = _entry(why, picture, BUDGET // count)
        length = sum(map(len, entry["images"]))
        # Of very many pictures not even small copies of all fit.
        if taken + length <= BUDGET:
            found.append(entry)
            taken += length
    return found


def _entry(why: str, picture: ShownPicture, room: int) -> dict[str, Any]:
    panels: dict[int, np.ndarray] = {}

    def number(image_HWC: np.ndarray) -> int:
        # The same array, such as one decoded picture of two networks, is kept once.
        panels.setdefault(id(image_HWC), image_HWC)
        return list(panels).index(id(image_HWC))

    original = picture.original_HWC
    entry = {
        "id": picture.sample_id,
        "why": why,
        "original": None if original is None else number(original),
        "truth": [{"title": title, "image": number(image)} for title, image in picture.truth],
        "networks": [
            {
                "point": found.point,
                "drawn": number(found.drawn_HWC),
                "decoded": number(found.decoded_HWC),
                "partly": found.partly,
                "channels": found.sample.rate.channels,
                "bytes": found.sample.rate.total_bytes,
                "bpp": 8 * found.sample.rate.total_bytes / found.sample.pixels,
                "score": None if np.isnan(found.score) else found.score,
            }
            for found in picture.networks
        ],
    }
    return {**entry, "images": _fitting(list(panels.values()), room)}


def _fitting(images: Sequence[np.ndarray], room: int) -> list[str]:
    """Returns images as addresses, all as wide as there is room for, at least 64 pixels."""
    found: list[str] = []
    for width in _WIDTHS:
        found = [_address(reduced(image_HWC, width)) for image_HWC in images]
        if sum(map(len, found)) <= room:
            break
    return found


def _address(image_HWC: np.ndarray) -> str:
    """Returns a picture as a `data:` address: a palette without loss, else JPEG."""
    picture, file = Image.fromarray(image_HWC), io.BytesIO()
    colours = picture.getcolors(_FEW_COLOURS)
    if colours is None:
        picture.save(file, format="JPEG", quality=_QUALITY, optimize=True)
        kind = "jpeg"
    else:
        # Of so few colours the palette holds each as it is.
        adaptive = picture.quantize(len(colours), dither=Image.Dither.NONE)
        adaptive.save(file, format="PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
