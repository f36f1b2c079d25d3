"""Strays: what lies in a store and is no part of it, by its name. Nothing reads it.

Systems and programs leave such files (`.DS_Store`, `.nfs...`), and processes that were
killed while they wrote one, or while they counted for a ranking (`.latent_store/counts`), until
the same command runs again.
"""

from __future__ import annotations

import re

from latent_store.components.registry import all_splits, stray_folders
from latent_store.storage.location import CONTROL, Location

_NAME = r"(?!\.)[^/]+"
_SPLIT = rf"{re.escape(CONTROL)}/{_NAME}/{_NAME}"
_PARTS = (
    rf"(?:{_NAME}/)*(?:zarr\.json|c(?:/\d+)*)",
    rf"{re.escape(CONTROL)}/codecs/{_NAME}\.pth\.tar",
    rf"{re.escape(CONTROL)}/teachers/{_NAME}\.pt",
    rf"{re.escape(CONTROL)}/(?:{_NAME}/)+leases/.+",
    rf"{_SPLIT}/(?:plan\.json|plan/\d{{6,}}-[0-9a-f]{{8}}\.parquet|{_NAME}\.parquet)",
    rf"{_SPLIT}/(?:receipts|failures)/(?:{_NAME}/)+\d+\.json",
)
_PART = re.compile("|".join(_PARTS))


def find_strays(location: Location) -> list[str]:
    """Lists strays, ascending: keys of files, and folders that lie where components do."""
    files = [key for key in location.sizes("") if not _PART.fullmatch(key)]
    splits = all_splits(location)
    folders = [f"{split}/{key}/" for split in splits for key in stray_folders(location, split)]
    return sorted([*files, *folders])


def describe_strays(location: Location) -> str:
    """Returns a line on the strays of a store; "" where there are none."""
    found = find_strays(location)
    if not found:
        return ""
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{location.url}: no part of the store, and ignored: {', '.join(found[:3])}{more}"
