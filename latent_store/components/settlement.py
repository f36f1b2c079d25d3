"""Follows a component's seal: former tables are removed, and foreign readers shown what is new."""

from __future__ import annotations

from latent_store.components import base as component
from latent_store.errors import IntegrityError
from latent_store.shards import index
from latent_store.shards.receipts import receipt_prefix
from latent_store.storage import groups
from latent_store.storage.consolidated import consolidate
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location


def settle(location: Location, split: str, *keys: str) -> None:
    """Does what follows once components are sealed; nothing where that was done.

    Tables that were kept for readers of their former states are removed. The metadata of the
    components, their split and the root is consolidated, which shows foreign readers what is
    finished, and nothing else; this package never reads it. Jobs that finish at once take turns, so
    that none overwrites the other's news.
    """
    for key in keys:
        settle_component(location, split, key)
    with Lease(location, "root", "metadata", wait_seconds=120):
        settle_split(location, split)
        show(location, "")


def settle_component(location: Location, split: str, key: str) -> None:
    """Does of `settle` what concerns one component alone, whose lease is held."""
    group = component.open_component(location, split, key)
    record = component.read_record(location, group)
    final = record.complete and not component.pending(group)
    for name in table_names(key):
        location.delete(index.former_key(split, name))
        if final and name not in record.tables:
            # The former seal may have named it.
            location.delete(index.index_key(split, name))
    for prefix in (f"{split}/{key}", receipt_prefix(split, key)):
        location.delete_leftovers(prefix)
    show(location, f"{split}/{key}")


def settle_split(location: Location, split: str) -> None:
    """Does of `settle` what concerns one split alone, with the lease on metadata held."""
    location.delete(index.former_key(split, "samples"))
    show(location, split)


def show(location: Location, path: str) -> None:
    """Shows foreign readers the group at `path` (empty: the root) as it is now.

    Raises:
        IntegrityError: A node in it is unreadable.
    """
    try:
        consolidate(location, path)
    except (KeyError, TypeError, ValueError) as error:
        # Zarr's own, which reads nodes of anybody's making here.
        raise IntegrityError(
            f"{location.url}: {path or 'the root'} cannot be shown to foreign readers, the "
            f"metadata of a node in it is unreadable ({error}); restore or remove that node, or "
            f"{groups.repair_hint(location)}"
        ) from error


def table_names(key: str) -> tuple[str, ...]:
    """Returns the names that a component's tables can have; that of the failed rows is last."""
    name = index.part_name(key)
    return name, f"{name}.objects", f"{name}.dead_letters"
