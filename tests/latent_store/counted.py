"""Counts what is fetched from a local store."""

from __future__ import annotations

from typing import Any

import pytest
from zarr.abc.store import ByteRequest
from zarr.storage import LocalStore, WrapperStore

from latent_store.storage.location import Location

Fetched = dict[str, list[int]]
"""Key of an object that holds chunks -> length in bytes of each fetch of it, or of a part."""


class CountedStore(WrapperStore[LocalStore]):
    """A local store that notes every fetch of chunks."""

    def __init__(self, store: LocalStore, fetched: Fetched) -> None:
        super().__init__(store)
        self.fetched = fetched

    async def get(self, key: str, prototype: Any, byte_range: ByteRequest | None = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        if value is not None and "/c/" in key:
            self.fetched.setdefault(key, []).append(len(value))
        return value


def count_fetches(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Returns a table that fills as arrays are read that are opened from now on."""
    fetched: Fetched = {}
    monkeypatch.setattr(
        Location,
        "zarr_store",
        lambda location: CountedStore(LocalStore(location.root, read_only=True), fetched),
    )
    return fetched
