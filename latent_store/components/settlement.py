"""Follows a component's seal: former tables are removed, and foreign readers shown what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latent_store.components import base as component
from latent_store.errors import IntegrityError
from latent_store.shards import index
from latent_store.shards.receipts import receipt_prefix
from latent_store.storage import consolidated, groups
from latent_store.storage.consolidated import Nodes
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location


def settle(location: Location, split: str, *keys: str) -> None:
    """Does what follows once components are sealed; nothing where that was done.

    Tables that were kept for readers of their former states are removed. The metadata of the
    components, their split and the root is consolidated, which shows foreign readers what is
    finished, and nothing else; this package believes of it only what has a digest that a component
    records. Jobs that finish at once take turns, so that none overwrites the other's news.
    """
    with shared_metadata(location):
        settle_held(location, split, keys, nodes_of(location))


def settle_held(location: Location, split: str, keys: Sequence[str], nodes: Nodes | None) -> None:
    """Does what `settle` does, with the lease of `shared_metadata` held.

    Args:
        location: The store.
        split: `dataset/split`.
        keys: The components.
        nodes: Of `nodes_of`.
    """
    former = [
        key for component_key in keys for key in _former_tables(location, split, component_key)
    ]
    location.delete_all([*former, index.former_key(split, "samples")])
    for key in keys:
        _delete_leftovers(location, split, key)
        show(location, f"{split}/{key}", nodes)
    show(location, split, nodes)
    show(location, "", nodes)


def shared_metadata(location: Location) -> Lease:
    """Returns the right to write what components share: metadata of splits and of the root."""
    return Lease(location, "root", "metadata", wait_seconds=120, fenced=False)


def nodes_of(location: Location) -> Nodes | None:
    """Returns the nodes of an object store, asked for at once; None for a local store, of which
    each group is looked at by itself."""
    return None if location.local_path is not None else consolidated.read_nodes(location, "")


def settle_component(location: Location, split: str, key: str) -> None:
    """Does of `settle` what concerns one component alone, whose lease is held."""
    location.delete_all(_former_tables(location, split, key))
    _delete_leftovers(location, split, key)
    show(location, f"{split}/{key}")


def settle_split(location: Location, split: str) -> None:
    """Does of `settle` what concerns one split alone, with the lease on metadata held."""
    location.delete(index.former_key(split, "samples"))
    show(location, split)


def _former_tables(location: Location, split: str, key: str) -> list[str]:
    """Returns the keys of tables of a component that no seal names any more, there or not."""
    group = component.open_component(location, split, key)
    record = component.read_record(location, group)
    final = record.complete and not component.pending(group)
    # The former seal may have named one that there is no longer.
    gone = [name for name in table_names(key) if final and name not in record.tables]
    former = [index.former_key(split, name) for name in table_names(key)]
    return [*former, *(index.index_key(split, name) for name in gone)]


def _delete_leftovers(location: Location, split: str, key: str) -> None:
    for prefix in (f"{split}/{key}", receipt_prefix(split, key)):
        location.delete_leftovers(prefix)


def show(
    location: Location,
    path: str,
    nodes: Nodes | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Shows foreign readers the group at `path` (empty: the root) as it is now, or with `attrs`.

    Raises:
        IntegrityError: A node in it is unreadable.
    """
    try:
        consolidated.consolidate(location, path, nodes, attrs)
    except (LookupError, TypeError, ValueError) as error:
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
