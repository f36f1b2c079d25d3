"""Hands arrays to another process in memory that both see, not through a pipe."""

import mmap
import os
import tempfile
from multiprocessing import reduction
from typing import Any

import numpy as np

LEAST = 2**16
"""In bytes: smaller arrays are sent sooner than shared."""
# All pages at once: to meet them one after another takes longer than to copy them.
_MAPPED = {"flags": mmap.MAP_SHARED | mmap.MAP_POPULATE} if hasattr(mmap, "MAP_POPULATE") else {}

_refused = False  # a refusal is asked for once, since each leaves a descriptor open


class SharedArray:
    """An array that is sent to another process, where it arrives as an array of its own.

    The memory has no name: it is gone when nobody sees it any more, however a process ends. Where
    the system refuses it, arrays are sent through the pipe after all.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = np.ascontiguousarray(array)

    def __reduce__(self) -> tuple[Any, ...]:
        global _refused
        if not _refused:
            try:
                return _take, (self._shared(), self._array.shape, self._array.dtype.str)
            except OSError:  # It is forbidden, or the path of a socket below TMPDIR too long.
                _refused = True
        return np.asarray, (self._array,)

    def _shared(self) -> Any:
        descriptor = _memory()
        try:
            rest = self._array.data.cast("B")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            # It may be closed here before it is taken there.
            return reduction.DupFd(descriptor)
        except OSError:
            os.ftruncate(descriptor, 0)  # Python leaves a copy of the descriptor open then.
            raise
        finally:
            os.close(descriptor)


def sendable(value: Any) -> Any:
    """Returns a value as it is best sent to another process."""
    large = isinstance(value, np.ndarray) and value.nbytes >= LEAST
    return SharedArray(value) if large else value


def _memory() -> int:
    """Returns the descriptor of memory without a name; where there is none, of such a file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("arrays")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _take(sent: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    descriptor = sent.detach()
    try:
        memory = mmap.mmap(descriptor, 0, **_MAPPED)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, dtype).reshape(shape)
