"""A store as the one job sees it that writes a part of it: its metadata there is read once.

A job holds the lease of a component, so that nobody else writes the metadata of its group and
arrays. What it has read or written of them is what lies there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from latent_store.storage.keys import METADATA
from latent_store.storage.location import LARGEST_OBJECT, Location


class RememberingLocation(Location):
    """A location that asks once for the metadata of what it is told to own.

    What it remembers is not pickled with it.
    """

    def __init__(
        self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ):
        super().__init__(url, storage_options)
        self._owned: tuple[str, ...] = ()
        self._known: dict[str, bytes | None] = {}
        self._groups: set[str] = set()

    @classmethod
    def of(cls, location: Location) -> RememberingLocation:
        """Returns the same address, nothing remembered yet."""
        return cls(location.address, location.storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return Location, super().__reduce__()[1]

    @contextlib.contextmanager
    def owning(self, *paths: str) -> Iterator[None]:
        """Remembers what lies below some paths while a block runs: their leases are held."""
        before, self._owned = self._owned, (*self._owned, *(f"{path}/" for path in paths))
        try:
            yield
        finally:
            self._owned = before
            self._known.clear()

    def knows_group(self, key: str) -> bool:
        """Tells whether a group's metadata was made or found by this job."""
        return key in self._groups

    def note_group(self, key: str) -> None:
        """Notes that a group is there: those above a component stay as long as it does."""
        self._groups.add(key)

    def read(self, key: str, most: int = LARGEST_OBJECT) -> bytes:
        """Returns an object's bytes, as `Location.read` does."""
        if not self._is_own(key):
            return super().read(key, most)
        data = self.read_all([key], most)[key]
        if data is None:
            raise FileNotFoundError(key)
        return data

    def read_all(self, keys: Iterable[str], most: int = LARGEST_OBJECT) -> dict[str, bytes | None]:
        """Returns whole objects, as `Location.read_all` does."""
        keys = list(keys)
        found = super().read_all([key for key in keys if key not in self._known], most)
        self._known |= {key: data for key, data in found.items() if self._is_own(key)}
        return {key: found[key] if key in found else self._known[key] for key in keys}

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Replaces an object whole."""
        super().write(key, data, durable=durable)
        self._note({key: data})

    def write_all(self, objects: Mapping[str, bytes]) -> None:
        """Replaces objects whole, and requires that they arrived."""
        super().write_all(objects)
        self._note(objects)

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object whole unless it is there; tells whether it was written."""
        if self._known.get(key) is not None:
            return False
        made = super().create(key, data)
        if made:
            self._note({key: data})
        else:
            self._known.pop(key, None)
        return made

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""
        self._forget(key)
        super().delete(key)

    def delete_all(self, keys: Iterable[str]) -> None:
        """Removes objects, as `delete` does, in few requests and in no order."""
        keys = list(keys)
        for key in keys:
            self._forget(key)
        super().delete_all(keys)

    def delete_tree(self, prefix: str) -> None:
        """Removes every object below `prefix`, empty for all; none there is no error."""
        self._known.clear()
        self._groups.clear()
        super().delete_tree(prefix)

    def _is_own(self, key: str) -> bool:
        return key.endswith(f"/{METADATA}") and key.startswith(self._owned)

    def _note(self, objects: Mapping[str, bytes]) -> None:
        self._known |= {key: bytes(data) for key, data in objects.items() if self._is_own(key)}

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        self._groups.discard(key)
