"""`latent-store verify`: is what lies in the store what was written?

Quick: every component's receipts, objects (length and crc32c), metadata and indexes; codecs,
rankings, teachers, plans. Deep: every stream is decoded and compared with ŷ. What is broken is
named, one line each.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import zarr

from latent_store.catalogue import codecs, rankings
from latent_store.components import base as component
from latent_store.components.base import PENDING
from latent_store.components.checking import (
    Closed,
    check_shards,
    component_tables,
    is_unread,
    samples_of,
)
from latent_store.components.features import FeaturesReader, teacher_of
from latent_store.components.finalize import begun_shards, reopen
from latent_store.components.latents import LatentsReader
from latent_store.components.registry import KINDS, all_splits, component_keys, ids_of, kind_of
from latent_store.components.settlement import shared_metadata
from latent_store.console import describe_os_error
from latent_store.errors import LatentStoreError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.shards import index, receipts
from latent_store.storage import consolidated, groups
from latent_store.storage.keys import is_key
from latent_store.storage.lease import Lease
from latent_store.storage.location import CONTROL, Location

BROKEN = (LatentStoreError, OSError)
"""What reading a store raises: what is wrong with it, or what the system does not let be read."""
DeepCheck = Callable[[Location, ShardPlan, str], Iterator["Defect"]]
"""Decodes the streams of one component; given by the codec room, which this one does not load."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        split: Of the component that its job should write again; None where no job can.
        component: Its key.
        shard: The shard to write again; None where the damage is not in one shard.
        metadata: The Zarr node whose metadata is to be made again; None where it is whole.
        unread: Whether the system did not let it be read; it may be whole, and nothing is removed.
    """

    where: str
    what: str
    split: str | None = None
    component: str | None = None
    shard: int | None = None
    metadata: str | None = None
    unread: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify(
    location: Location,
    *,
    deep: DeepCheck | None = None,
    on_shard: Callable[[int], object] = lambda _: None,
) -> Iterator[Defect]:
    """Yields every defect of a store; nothing is changed.

    Args:
        location: The store.
        deep: Also decode every stream.
        on_shard: Called after each shard, for a progress bar.
    """
    yield from _defects(location, deep, on_shard)


def _defects(
    location: Location,
    deep: DeepCheck | None,
    on_shard: Callable[[int], object] = lambda _: None,
    only: Collection[tuple[str, str]] | None = None,
) -> Iterator[Defect]:
    """Yields what `verify` does; of components those in `only`, as `(split, key)`; None: all."""
    splits = _splits(location)
    if location.sizes(CONTROL):  # Without it every codec lacks its file, and that says nothing.
        yield from _codec_defects(location, splits)
    for split in splits:
        try:
            plan = read_plan(location, *split.split("/")).require_whole()
        except BROKEN as error:
            yield Defect(where=split, what=in_words(error))
            continue
        for key in _keys(location, split):
            if only is not None and (split, key) not in only:
                continue
            found = list(_component_defects(location, plan, key, on_shard))
            yield from found
            if deep is not None and not found:
                yield from _deep_defects(location, plan, key, deep)
    yield from _consolidated_defects(location, splits)


def repair(
    location: Location,
    defects: list[Defect],
    *,
    deep: DeepCheck | None = None,
    steal: bool = False,
) -> int:
    """Removes what is broken, so that a rerun of its job writes exactly that again.

    A job may have written it since it was found: the components are looked at again once their
    leases are held, and what is still broken is removed. Nothing outside of the store is touched,
    whatever names in it or links say.

    Args:
        location: The store.
        defects: What was found broken.
        deep: As for `verify`; without it nothing is removed that it alone finds.
        steal: Take components from jobs that are thought dead.

    Returns:
        How many shards were dropped.

    Raises:
        LeaseHeldError: A job writes one of the components; nothing was removed.
        LeaseLostError: Another job took one of the components meanwhile; nothing was removed.
    """
    named = [(d.split, d.component) for d in defects if not d.unread]
    broken = {(split, key) for split, key in named if split and key}
    nodes = {d.metadata for d in defects if d.component is None}
    with contextlib.ExitStack() as stack:
        leases = [
            stack.enter_context(Lease(location, split, key, steal=steal))
            for split, key in sorted(broken)
        ]
        found = _defects(location, deep, only=broken) if broken else ()
        again = [d for d in found if (d.split, d.component) in broken]
        # Every job that ends waits for this one: it is held while things are removed.
        stack.enter_context(shared_metadata(location))
        shared = _consolidated_defects(location, _splits(location))
        again += [d for d in shared if d.metadata in nodes]
        for lease in leases:
            lease.claim.require()
        return _drop(location, [d for d in again if not d.unread])


def _drop(location: Location, defects: list[Defect]) -> int:
    nodes = {d.metadata for d in defects if d.metadata is not None}
    for path in nodes:
        if not path or (is_key(path) and location.holds(path)):
            location.delete(groups.metadata_key(path))
    dropped = set()
    for defect in defects:
        if defect.split is None or defect.component is None:
            continue
        path = f"{defect.split}/{defect.component}"
        if not location.holds(groups.metadata_key(path)):
            continue
        group = groups.open_group(location, path)
        if defect.shard is None:
            if group is not None:
                # What a job noted goes with the seal that it was noted beside.
                groups.update_attrs(location, path, {"complete": False}, without=[PENDING])
            continue
        if group is not None:
            reopen(location, group, [defect.shard])
        location.delete(receipts.receipt_key(defect.split, defect.component, defect.shard))
        dropped.add((defect.split, defect.component, defect.shard))
    return len(dropped)


def in_words(error: LatentStoreError | OSError) -> str:
    """Returns one line on what is broken."""
    return str(error) if isinstance(error, LatentStoreError) else describe_os_error(error)


def _codec_defects(location: Location, splits: list[str]) -> Iterator[Defect]:
    """Checks codecs, rankings and teachers: those that are there, and those that are used."""
    used = [ids_of(key).items() for split in splits for key in _keys(location, split)]
    in_use = set(itertools.chain.from_iterable(used))
    codec_ids = {name for part, name in in_use if part == "codec"}
    for codec_id in sorted({*_filled_folders(location, "codecs"), *codec_ids}):
        try:
            spec = codecs.choose_codec(location, codec_id)
            codecs.read_codec_tables(location, codec_id)
            codecs.read_codec_checkpoint(location, spec)
        except BROKEN as error:
            yield _of_a_user(location, splits, LatentsReader.key_of(codec_id), error)
        for ranking_id in _filled_folders(location, rankings.rankings_path(codec_id)):
            try:
                rankings.read_ranking(location, codec_id, ranking_id)
            except BROKEN as error:
                where = rankings.rankings_path(codec_id, ranking_id)
                yield Defect(where=where, what=in_words(error))
    teacher_ids = {teacher_of(name) for part, name in in_use if part == "teacher"}
    for teacher_id in sorted({*codecs.list_teachers(location), *teacher_ids}):
        try:
            codecs.read_teacher_checkpoint(location, teacher_id)
        except BROKEN as error:
            yield _of_a_user(location, splits, FeaturesReader.key_of(teacher_id), error)


def _of_a_node(
    path: str,
    error: LatentStoreError | OSError,
    split: str | None = None,
    component: str | None = None,
) -> Defect:
    """Returns a defect of a node; what cannot be read now may be whole, and is not removed."""
    broken = path if isinstance(error, LatentStoreError) else None
    return Defect(
        where=path,
        what=in_words(error),
        split=split,
        component=component,
        metadata=broken,
        unread=is_unread(error),
    )


def _filled_folders(location: Location, path: str) -> list[str]:
    """Lists the folders in which there is more than strays, a group or what is left of one."""
    there = {name: location.sizes(f"{path}/{name}") for name in location.folders(path)}
    return [name for name, keys in there.items() if any("/." not in key for key in keys)]


def _of_a_user(
    location: Location, splits: list[str], key: str, error: LatentStoreError | OSError
) -> Defect:
    """Returns a defect of a codec or teacher; the job of the component that it is for mends it."""
    split = next((split for split in splits if key in _keys(location, split)), None)
    where = key if split is None else f"{split}/{key}"
    return Defect(
        where=where,
        what=in_words(error),
        split=split,
        component=split and key,
        unread=is_unread(error),
    )


def _splits(location: Location) -> list[str]:
    return sorted({*all_splits(location), *receipts.splits_with_receipts(location)})


def _keys(location: Location, split: str) -> list[str]:
    there = receipts.components_with_receipts(location, split)
    return sorted({*component_keys(location, split), *there})


def _component_defects(
    location: Location, plan: ShardPlan, key: str, on_shard: Callable[[int], object]
) -> Iterator[Defect]:
    where = f"{plan.name}/{key}"
    if notes := _defect_of_notes(location, plan, key):
        # Apart from them everything may be whole: nothing is removed for their sake.
        yield Defect(where=where, what=notes, split=plan.name, component=key)
        return
    try:
        closed = check_shards(location, plan, key, on_shard, go_on=True, read=True)
        begun = _begun(location, plan, key, closed)
    except BROKEN as error:
        yield _of_a_node(where, error, split=plan.name, component=key)
        return
    for shard in sorted(closed.defects.keys() - begun):
        yield Defect(
            where=f"{where} shard {shard}",
            what=closed.defects[shard],
            split=plan.name,
            component=key,
            shard=shard,
            unread=shard in closed.unread,
        )
    if begun:
        what = f"more was begun than is finished, {len(begun)} shards of it lack; run its job again"
        yield Defect(where=where, what=what)
    try:
        group = component.open_component(location, plan.name, key)
        complete = component.read_record(location, group).complete
        if complete:
            component.require_intact(location, group)
    except BROKEN as error:
        yield _of_a_node(where, error, split=plan.name, component=key)
        return
    for name, what in component.array_defects(location, group).items():
        path = f"{where}/{name}"
        yield Defect(where=path, what=what, split=plan.name, component=key, metadata=path)
    if closed.defects:
        return
    if not complete:
        what = "every shard is whole, but it was not finalized; run latent-store finalize"
        yield Defect(where=where, what=what)
        return
    if component.pending(group):
        what = "more was begun than is finished, which is whole; run its job again"
        yield Defect(where=where, what=what)
        return
    found = list(_index_defects(location, plan, group, closed))
    yield from found
    if not found and key.partition("/")[0] in KINDS:
        try:
            kind_of(key)(location, plan, key)
        except BROKEN as error:
            what, unread = in_words(error), is_unread(error)
            yield Defect(where=where, what=what, split=plan.name, component=key, unread=unread)


def _defect_of_notes(location: Location, plan: ShardPlan, key: str) -> str:
    """Returns what is wrong with what a job noted beside the seal of an intact component."""
    try:
        group = component.open_component(location, plan.name, key)
        component.require_sealed(location, group)
    except BROKEN:
        return ""
    try:
        component.noted_record(location, group)
    except LatentStoreError as error:
        return str(error)
    return ""


def _begun(location: Location, plan: ShardPlan, key: str, closed: Closed) -> set[int]:
    """Returns the shards that are no defects: a job that adds them, or makes them anew, goes on."""
    group = groups.open_group(location, f"{plan.name}/{key}")
    if group is None:
        return set()
    return begun_shards(location, group, closed.defects.keys() - closed.unread)


def _deep_defects(
    location: Location, plan: ShardPlan, key: str, deep: DeepCheck
) -> Iterator[Defect]:
    try:
        yield from deep(location, plan, key)
    except BROKEN as error:
        # Its codec or ranking cannot be read: named already, and nothing can be decoded.
        yield Defect(where=f"{plan.name}/{key}", what=in_words(error))


def _index_defects(
    location: Location, plan: ShardPlan, group: zarr.Group, closed: Closed
) -> Iterator[Defect]:
    read = {
        name: (table, partial(component.read_table, location, group, plan.name, name))
        for name, table in component_tables(closed).items()
    }
    samples = samples_of(location, plan, closed)
    if samples is not None:
        read["samples"] = (samples, partial(index.read_samples, location, plan.name))
    for name, (expected, stored) in read.items():
        try:
            table = stored()
            # A newer minor version may have added columns, an older one had fewer.
            known = [column for column in expected.column_names if column in table.column_names]
            same = table.select(known).equals(expected.select(known))
            what = f"the index {name} does not agree with the receipts; run latent-store finalize"
        except BROKEN as error:
            same, what = False, in_words(error)
        if not same:
            yield Defect(where=group.path, what=what)


def _consolidated_defects(location: Location, splits: list[str]) -> Iterator[Defect]:
    finished = set()
    for split in splits:
        for key in _keys(location, split):
            path = f"{split}/{key}"
            try:
                group = component.open_component(location, split, key)
                record = component.read_record(location, group)
                if record.complete and not component.pending(group):
                    finished.add(path)
            except BROKEN:
                continue  # Named already.
    for path in sorted({"", *splits, *finished}) if finished else []:
        try:
            found = list(consolidated.differences(location, path, finished))
        except BROKEN as error:
            yield _of_a_node(path, error)
            continue
        for node, what in dict(found).items():
            broken = None if node == path else node
            what = f"{what}; run latent-store finalize"
            yield Defect(where=node or "the root", what=what, metadata=broken)
