"""Changes of a tree of files or objects, each told before it happens.

Whatever this package writes or removes goes through here. So a test can look
at a store as a job leaves it that is killed before any one of its changes.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Listener = Callable[[str, str], None]
"""Called with what is about to happen, e.g. `replace`, and the path that it happens to."""

_listeners: list[Listener] = []
_one_at_a_time = threading.RLock()


def tell(what: str, path: object) -> None:
    """Tells the listeners of a change that is about to happen."""
    if _listeners:
        with _one_at_a_time:
            for listener in tuple(_listeners):
                listener(what, str(path))


@contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Tells `listener` of every change of this process while a block runs.

    What it raises stops the change.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def flush(path: Path) -> None:
    """Brings all that was written to the file system of a path, files and folders, to its disk.

    One call: an object lies in folders of its own, and each would cost a call more, for itself and
    for its entry in the next.

    Raises:
        OSError: The disk failed.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()  # Every file system, where one cannot be told apart.
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        if syncfs(folder):
            raise OSError(
                ctypes.get_errno(), "what was written cannot be brought to disk", str(path)
            )
    finally:
        os.close(folder)
