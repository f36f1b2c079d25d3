"""Consolidated metadata: the picture of a finished hierarchy that foreign readers open.

This package never reads from it; it writes it, and compares it with what it is a picture of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import WrapperStore

from latent_store.errors import IntegrityError
from latent_store.storage import groups
from latent_store.storage.location import Location

CONSOLIDATED = "consolidated_metadata"


def consolidate(location: Location, path: str) -> None:
    """Writes consolidated metadata for the group at `path` (empty: the root), if it is another.

    Zarr readers then open it with one request and see it as it was when the job finished.
    """
    picture = _Picture(location.zarr_store(read_only=False))
    with warnings.catch_warnings():
        # Version 3 of the Zarr specification has no consolidated metadata yet; every reader that
        # does not know it reads the groups one by one, so writing it harms nobody.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        # The store's own objects below .latent_store are no Zarr nodes, nor are strays.
        warnings.filterwarnings("ignore", "Object at ", ZarrUserWarning)
        # Nor is what an unfinished job made below a group that keeps an older picture.
        warnings.filterwarnings("ignore", ".*not found in consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(picture, path=path or None)
    key = groups.metadata_key(path)
    if picture.taken[key] != location.read(key):
        location.write(key, picture.taken[key])


def differences(location: Location, path: str, finished: set[str]) -> Iterator[tuple[str, str]]:
    """Compares the picture that a group keeps with its nodes as they are.

    Args:
        location: The store.
        path: The group.
        finished: Paths of the finished components. Nodes in them must look as they did, those
            above them must still be there, all others may have changed since.

    Yields:
        `(path of a node, what is wrong)`; the group's own path where the picture is.
    """
    record = groups.read_metadata(location, path) or {}
    picture = record.get(CONSOLIDATED)
    pictured = picture.get("metadata") if isinstance(picture, dict) else None
    # Without a picture, foreign readers read the nodes themselves.
    for name, then in (pictured if isinstance(pictured, dict) else {}).items():
        node = f"{path}/{name}" if path else name
        inside = any(f"{node}/".startswith(f"{part}/") for part in finished)
        above = any(part.startswith(f"{node}/") for part in finished)
        if not (inside or above):
            continue
        try:
            now = groups.read_metadata(location, node)
        except IntegrityError as error:
            yield node, str(error)
            continue
        if now is None or now["node_type"] != _plain(then).get("node_type"):
            yield node, "its metadata is missing, or another node's"
        elif inside and not _shows(_plain(then), _plain(now)):
            yield path, f"its consolidated metadata shows another {node} than there is"


class _Picture(WrapperStore[Store]):
    """A store that keeps what Zarr would write."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.taken: dict[str, bytes] = {}

    async def set(self, key: str, value: Buffer) -> None:
        self.taken[key] = value.to_bytes()

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)


def _shows(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tells whether a node looks as in the picture, but for attributes added since."""
    attrs, shown = now.get("attributes", {}), then.get("attributes", {})
    same = isinstance(shown, dict) and {k: attrs.get(k) for k in shown} == shown
    return same and {**now, "attributes": shown} == {**then, "attributes": shown}


def _plain(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        return {}
    return {key: value for key, value in record.items() if key != CONSOLIDATED}
