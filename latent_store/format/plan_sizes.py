"""Sizes that a split's pictures may have: one for all, or whatever its canvas holds."""

from __future__ import annotations

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.sample_lists import Samples
from latent_store.format.samples import Sample
from latent_store.format.schema import PAD_MULTIPLE


def require_sizes(samples: Samples, canvas: tuple[int, int], *, mixed: bool) -> None:
    """Refuses samples of other sizes than a plan allows; those without a size pass.

    Args:
        samples: All of the plan.
        canvas: Height and width of the arrays, in pixels.
        mixed: Whether a coded size may be smaller.

    Raises:
        DatasetError: Names the first, and a canvas that holds all.
    """
    for number, part in enumerate(samples.parts):
        table = part.table()
        coded_N2 = coded_sizes(table["height"].to_numpy(), table["width"].to_numpy())
        wrong_N2 = (coded_N2 > canvas) | (coded_N2 != canvas if not mixed else False)
        wrong_N = wrong_N2.any(axis=1) & coded_N2.all(axis=1)
        if wrong_N.any():
            first = samples[int(samples.starts[number]) + int(wrong_N.argmax())]
            sides = zip(canvas, *distinct_sizes(samples), strict=True)
            height, width = map(max, sides)
            raise DatasetError(_size_message(first, (height, width), canvas, mixed=mixed))


def coded_sizes(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Returns heights and widths in pixels at which pictures are coded, `[n, 2]`; 0 where nobody
    knows (`Sample.coded_size`)."""
    sizes_N2 = np.stack([heights, widths], axis=1)
    coded_N2: np.ndarray = -(-sizes_N2 // PAD_MULTIPLE) * PAD_MULTIPLE
    coded_N2[~sizes_N2.all(axis=1)] = 0
    return coded_N2


def distinct_sizes(samples: Samples) -> set[tuple[int, int]]:
    """Returns every height and width, in pixels, at which a picture is coded; 0 of one without."""
    found: set[tuple[int, int]] = set()
    for table in samples.tables():
        coded_N2 = coded_sizes(table["height"].to_numpy(), table["width"].to_numpy())
        found.update(map(tuple, np.unique(coded_N2, axis=0).tolist()))
    return found


def in_words(size: tuple[int, int]) -> str:
    """Returns a size as height x width."""
    return f"{size[0]}x{size[1]}"


def _size_message(
    sample: Sample, holds_all: tuple[int, int], canvas: tuple[int, int], *, mixed: bool
) -> str:
    if mixed:
        coded = in_words(sample.coded_size)
        rule = f"coded at {coded}, larger than the canvas of {in_words(canvas)}"
    else:
        one = "without `canvas=` every picture has one size"
        rule = f"but the split is coded at {in_words(canvas)}: {one}"
    where = "" if holds_all == canvas else "into a new store "
    return (
        f"{sample.image_uri} is {in_words((sample.height, sample.width))} (height x width), "
        f"{rule}; encode {where}with `canvas={holds_all[0]} {holds_all[1]}`, which holds all"
    )
