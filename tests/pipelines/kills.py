"""Kills of a job at each of its changes: the tree as it lies then, and the same job run once more.

A killed process does nothing more, so that what it leaves is the tree as it was before the change
that it did not come to. One undisturbed run therefore shows every kill: a listener keeps the tree
before each change. What runs again afterwards is the real job on the real tree.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zarr

from latent_store.storage.changes import told
from tests.latent_store.mutations import unnumbered

Job = Callable[[Path], object]
"""Runs a job on the store at a path, to its end."""
_ALIKE = (
    (re.compile(r"[0-9a-f]{8,}|\d+"), "N"),
    (re.compile(r"[^/]+/(c/|(\.?zarr\.json))"), r"ARRAY/\1"),
    (re.compile(r"train/(labels|latents/[^/]+|ranked/[^/]+/[^/]+)/"), "train/COMPONENT/"),
    (re.compile(r"receipts/.+/"), "receipts/COMPONENT/"),
    (re.compile(r"/(labels|(latents|ranked)-[^.]+)\."), "/COMPONENT."),
)
"""What is taken for the same in the path of a change, and what it is called."""


def contents(url: Path) -> dict[str, bytes]:
    """Returns every file of a tree, but locks and leases, and the numbers of leases in receipts."""
    files = (path for path in url.rglob("*") if path.is_file() and "leases" not in path.parts)
    return {str(path.relative_to(url)): unnumbered(path) for path in sorted(files)}


def walk(
    job: Job,
    url: Path,
    scratch: Path,
    moments: str,
    read: Callable[[Path], dict[str, Any]] = contents,
) -> tuple[int, list[str]]:
    """Runs a job undisturbed, and again on the tree of each kill.

    Args:
        job: The job.
        url: The store it begins with, which it also ends in; need not be there.
        scratch: An empty folder on the same file system.
        moments: `every` one; `changes`, without those before a file is written beside its place;
            `ends`, the first and the last of these of each kind: what happens to the metadata of
            one array, say, or to the objects of one shard, is taken for all.
        read: Reads the tree, for comparison.

    Returns:
        How many kills there were, and where the tree was another one afterwards.
    """
    kept: list[tuple[str, Path]] = []

    def keep(what: str, path: str) -> None:
        # Before a file is renamed its new content lies beside it: more than before it was written.
        if "/leases/" in path or (what == "write" and moments != "every"):
            return
        tree = scratch / f"{len(kept):03d}"
        kept.append((f"{what} {Path(path).relative_to(url)}", tree))
        if url.exists():
            shutil.copytree(url, tree, copy_function=_link)

    # One write after another: what is kept is one moment's tree.
    with zarr.config.set({"async.concurrency": 1}), told(keep):
        job(url)
    whole = read(url)
    if moments == "ends":
        kinds = [_kind(change) for change, _ in kept]
        ends = {kinds.index(kind) for kind in kinds}
        ends |= {len(kinds) - 1 - kinds[::-1].index(kind) for kind in kinds}
        kept = [kept[n] for n in sorted(ends)]
    found = ((change, _differences(job, tree, whole, read)) for change, tree in kept)
    return len(kept), [f"{change}: {what}" for change, parts in found for what in parts]


def _kind(change: str) -> str:
    for pattern, name in _ALIKE:
        change = pattern.sub(name, change)
    return change


def _link(source: str, target: str) -> None:
    """Keeps a file; Zarr may remove one at the same moment. Only logs are written in place."""
    with contextlib.suppress(FileNotFoundError):
        (shutil.copyfile if source.endswith(".jsonl") else os.link)(source, target)


def _differences(
    job: Job, tree: Path, whole: dict[str, Any], read: Callable[[Path], dict[str, Any]]
) -> Iterator[str]:
    try:
        job(tree)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        yield f"{type(error).__name__}: {error}"
        return
    found = read(tree)
    yield from (f"{key} is missing" for key in whole.keys() - found.keys())
    yield from (f"{key} is there" for key in found.keys() - whole.keys())
    yield from (f"{key} differs" for key in whole.keys() & found.keys() if whole[key] != found[key])
    shutil.rmtree(tree)
