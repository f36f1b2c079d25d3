"""Opens Zarr groups as they are now.

A group's consolidated metadata is a picture of its children taken when a job finished; Zarr
would serve later children from it, that is, not at all. So every group is opened by its full
path, and never reached through its parent.
"""

from __future__ import annotations

import zarr

from latent_store.location import Location


def open_group(location: Location, path: str = "", *, writable: bool = False) -> zarr.Group | None:
    """Opens a group, or returns None where there is none."""
    store = location.zarr_store(read_only=not writable)
    mode = "r+" if writable else "r"
    try:
        return zarr.open_group(store, path=path or None, mode=mode, use_consolidated=False)
    except FileNotFoundError:
        return None


def make_groups(location: Location, path: str) -> zarr.Group:
    """Opens a group, making every group on the way, so that a tree reader finds them all."""
    store = location.zarr_store(read_only=False)
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        group = zarr.open_group(
            store,
            path="/".join(parts[:depth]),
            mode="a",
            zarr_format=3,
            use_consolidated=False,
        )
    return group


def child_names(location: Location, path: str) -> list[str]:
    """Returns the names of the groups in a group; none where it is not there."""
    group = open_group(location, path)
    return [] if group is None else sorted(group.group_keys())
