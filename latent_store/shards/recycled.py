"""Large arrays whose memory is used again once nobody looks at them.

A load of full-size pictures is a hundred megabytes. Fetched from the system anew each time, its
pages cost as much as decoding what is written to them; and the C library hands back to the system
at once whatever is larger than 32 MiB.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST = 2**22
"""In bytes: smaller arrays the C library recycles well."""
KEPT = 2**28
"""Bytes that may lie idle."""

_idle: deque[np.ndarray] = deque()


class _Lent:
    """Memory that an array shows; it lies idle again when the last view of that is gone."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        # It may run in the midst of `_take`: no lock. The oldest make room, as sizes change.
        if self._memory.nbytes <= KEPT:
            _idle.append(self._memory)
        with contextlib.suppress(IndexError):
            while sum(memory.nbytes for memory in tuple(_idle)) > KEPT:
                _idle.popleft()


def empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Returns an array of undefined values."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < LEAST:
        return np.empty(shape, dtype)
    memory = _take(nbytes)
    lent = np.asarray(_Lent(np.empty(nbytes, np.uint8) if memory is None else memory))
    return lent[:nbytes].view(dtype).reshape(shape)


def _take(nbytes: int) -> np.ndarray | None:
    """Takes idle memory that fits, the latest first."""
    # Threads share the queue, and each of its operations is one step.
    others, found = [], None
    while found is None:
        try:
            memory = _idle.pop()
        except IndexError:
            break
        if nbytes <= memory.nbytes <= 2 * nbytes:
            found = memory
        else:
            others.append(memory)
    _idle.extend(reversed(others))
    return found
