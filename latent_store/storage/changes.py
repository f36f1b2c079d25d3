"""Changes of a tree of files or objects, each told before it happens.

Whatever this package writes or removes goes through here, Zarr's own writes too. So a test can look
at a store as a job leaves it that is killed before any one of its changes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

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


class Place(Protocol):
    """A place where a store lies: what `latent_store.storage.location` has of it."""

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine."""

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Replaces an object whole."""

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object whole unless it is there."""

    def delete(self, key: str) -> None:
        """Removes an object."""

    def delete_tree(self, prefix: str) -> None:
        """Removes every object below a prefix."""


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


class ToldStore(WrapperStore[Store]):
    """A Zarr store to write to, whose changes are told, and on this machine made as all others are.

    Args:
        store: What is read from, and in an object store written to.
        place: Where it lies.
    """

    def __init__(self, store: Store, place: Place) -> None:
        super().__init__(store)
        self._place = place

    async def set(self, key: str, value: Buffer) -> None:
        """Replaces an object whole."""
        if self._place.local_path is None:
            tell("write", key)
            await self._store.set(key, value)
        else:
            data = value.to_bytes()
            await asyncio.to_thread(self._place.write, key, data, durable=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Writes an object unless it is there."""
        if self._place.local_path is None:
            tell("write", key)
            await self._store.set_if_not_exists(key, value)
        else:
            await asyncio.to_thread(self._place.create, key, value.to_bytes())

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""
        if self._place.local_path is None:
            tell("delete", key)
            await self._store.delete(key)
        else:
            await asyncio.to_thread(self._place.delete, key)

    async def delete_dir(self, prefix: str) -> None:
        """Removes every object below a prefix."""
        await asyncio.to_thread(self._place.delete_tree, prefix)
