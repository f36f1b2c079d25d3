"""What a cut touches of a row's chunks, and where the values of these go."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from latent_store.format import layout
from latent_store.format.layout import Numbers

Cut = tuple[Numbers, ...]
"""What is read of a row: positions on each of the first axes, of the others all. Those of one axis
at most are no range."""


class Cover:
    """The chunks of a row that a cut touches.

    Args:
        cut: Positions on every axis.
        inner: Sides of a chunk.
        grid: Chunks of a row along each axis.

    Attributes:
        numbers: Of the chunks in the row, in C order.
    """

    def __init__(self, cut: Cut, inner: Sequence[int], grid: Sequence[int]) -> None:
        self._inner = tuple(inner)
        sides = zip(cut, inner, strict=True)
        self._axes = [layout.pieces(numbers, side) for numbers, side in sides]
        self._touched = tuple(map(len, self._axes))
        strides = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
        steps = (
            [chunk * stride for chunk, _, _ in axis]
            for axis, stride in zip(self._axes, strides, strict=True)
        )
        self.numbers = np.array([sum(each) for each in itertools.product(*steps)], np.int64)
        # Where the cut begins and ends among the chunks laid side by side.
        self._window = tuple(
            slice(n.start % side, n.start % side + len(n))
            for n, side in zip(cut, inner, strict=True)
            if isinstance(n, range)
        )

    def place(self, values: np.ndarray, there: Sequence[int], out: np.ndarray) -> None:
        """Copies the values of chunks to where they belong in what is read, and 0 elsewhere.

        In one copy where that can be: other threads may run until it is done.

        Args:
            values: `[n, ...]`.
            there: Whose they are: places among `numbers`.
            out: What is read.
        """
        if len(there) < len(self.numbers):
            out[...] = 0
        ranges = len(there) == len(self.numbers) and len(self._window) == len(self._touched)
        blocks = [n * side for n, side in zip(self._touched, self._inner, strict=True)]
        if ranges and max(self._touched[1:], default=1) == 1:
            out[...] = values.reshape(blocks)[self._window]
        elif ranges and out.shape == tuple(blocks):
            rank = len(blocks)
            sides = itertools.chain(*zip(self._touched, self._inner, strict=True))
            into = out.reshape(*sides).transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
            into[...] = values.reshape(*self._touched, *self._inner)
        else:
            for chunk, place in zip(values, there, strict=True):
                target, source = self._places[place]
                out[target] = chunk[source]

    def pick(self, values: np.ndarray) -> np.ndarray:
        """Returns what the cut leaves of the values of the only chunk."""
        ((_, source),) = self._places
        return np.asarray(values[source])

    @cached_property
    def _places(self) -> list[tuple[Any, Any]]:
        """Where the values of each chunk go, and where they lie in it."""
        return [
            (tuple(target for _, target, _ in each), tuple(source for _, _, source in each))
            for each in itertools.product(*self._axes)
        ]
