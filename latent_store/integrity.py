"""``latent-store verify``: is what lies in the store what was written?

Quick: every component's receipts, objects (length and crc32c) and indexes. Deep: every stream is
decoded and compared with ŷ. What is broken is named, one line each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zarr

from latent_store import codecs, component, index, receipts
from latent_store.errors import LatentStoreError
from latent_store.finalize import check_shards, component_keys
from latent_store.location import Location
from latent_store.plan import ShardPlan, list_splits, read_plan

DeepCheck = Callable[[Location, ShardPlan, str], Iterator["Defect"]]
"""Decodes the streams of one component; given by the codec room, which this one does not load."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        shard: The shard to write again; None where the damage is not in one shard.
    """

    where: str
    what: str
    split: str | None = None
    component: str | None = None
    shard: int | None = None

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
    yield from _codec_defects(location)
    for split in list_splits(location):
        plan = read_plan(location, *split.split("/"))
        for key in component_keys(location, split):
            found = list(_component_defects(location, plan, key, on_shard))
            yield from found
            if deep is not None and not found:
                yield from deep(location, plan, key)


def repair(location: Location, defects: list[Defect]) -> int:
    """Removes what is broken, so that a rerun of its job writes exactly that again.

    Returns:
        How many shards were dropped.
    """
    dropped = set()
    for defect in defects:
        if defect.split is None or defect.component is None:
            continue
        group = component.open_component(location, defect.split, defect.component, writable=True)
        group.attrs.update({"complete": False})
        if defect.shard is not None:
            location.delete(receipts.receipt_key(defect.split, defect.component, defect.shard))
            dropped.add((defect.split, defect.component, defect.shard))
    return len(dropped)


def _codec_defects(location: Location) -> Iterator[Defect]:
    for codec_id, spec in codecs.list_codecs(location).items():
        try:
            codecs.read_codec_checkpoint(location, spec)
        except LatentStoreError as error:
            yield Defect(where=f"codecs/{codec_id}", what=str(error))


def _component_defects(
    location: Location, plan: ShardPlan, key: str, on_shard: Callable[[int], object]
) -> Iterator[Defect]:
    where = f"{plan.name}/{key}"
    closed, good = check_shards(location, plan, key, on_shard)
    for shard, what in closed.defects.items():
        yield Defect(
            where=f"{where} shard {shard}",
            what=what,
            split=plan.name,
            component=key,
            shard=shard,
        )
    try:
        group = component.open_component(location, plan.name, key)
    except LatentStoreError as error:
        yield Defect(where=where, what=str(error), split=plan.name, component=key)
        return
    if closed.complete:
        yield from _index_defects(location, plan, key, group, good)


def _index_defects(
    location: Location,
    plan: ShardPlan,
    key: str,
    group: zarr.Group,
    good: list[receipts.Receipt],
) -> Iterator[Defect]:
    where = f"{plan.name}/{key}"
    if not group.attrs.get("complete"):
        yield Defect(where=where, what="every shard is whole, but it was not finalized")
        return
    name = index.part_name(key)
    expected = {name: index.rows_table(good), f"{name}.objects": index.objects_table(good)}
    for part, table in expected.items():
        try:
            stored = index.read_table(location, index.index_key(plan.name, part))
        except LatentStoreError as error:
            yield Defect(where=where, what=str(error), split=plan.name, component=key)
            continue
        if not stored.equals(table):
            what = f"the index {part} does not agree with the receipts; run latent-store finalize"
            yield Defect(where=where, what=what, split=plan.name, component=key)
