"""What a store holds, as numbers: codecs, rankings, teachers, components, and all of its bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from latent_store.catalogue import codecs
from latent_store.components import base as component
from latent_store.components.opened import OpenComponent
from latent_store.format.plan import ShardPlan
from latent_store.shards import receipts
from latent_store.storage.location import CONTROL
from latent_store.store import LatentStore, Split

COMPLETE, GROWING, INCOMPLETE = "complete", "growing", "incomplete"


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What a finished component holds.

    Attributes:
        samples: Usable rows without views, which show the same pictures again.
        views: Usable rows that are views.
        failed: Rows whose picture could not be used.
        absent: Rows that the list of the component's task lacks.
        bpp: Mean rate of the samples in bits a pixel; None where the component has none.
        psnr: Mean PSNR of those that were measured, in dB.
        psnr_samples: How many these are.
    """

    samples: int
    views: int
    failed: int
    absent: int
    bpp: float | None
    psnr: float | None
    psnr_samples: int

    def describe(self, where: str = "") -> str:
        """Returns the counts in words; `where` is put after the number of samples."""
        text = f"{self.samples} samples" + (f" and {self.views} views" if self.views else "")
        text += where
        for status, count in ((receipts.FAILED, self.failed), (receipts.NOT_LISTED, self.absent)):
            text += f", {count} {status}" if count else ""
        for mean, unit in ((self.bpp, "bpp"), (self.psnr, "dB PSNR")):
            text += "" if mean is None else f", {mean:.4g} {unit}"
        if 0 < self.psnr_samples < self.samples:
            text += f" of {self.psnr_samples}"
        return text


def count_rows(plan: ShardPlan, table: pa.Table, key: str) -> RowCounts:
    """Counts the rows of a finished component, `key`, in its part of the index."""
    rows, ids = (table[name].to_pylist() for name in ("row", "sample_id"))
    plan.require_samples(rows, ids, key)
    original = (plan.source_rows(rows) == rows).tolist()
    statuses = table["status"].to_pylist()
    good = [status == receipts.OK for status in statuses]
    samples = sum(fine for fine, first in zip(good, original, strict=True) if first)
    table = table.filter(original)
    known = {
        name: table[name].drop_null() if name in table.column_names else []
        for name in ("bpp", "psnr")
    }
    means = {name: float(np.mean(v)) if len(v) else None for name, v in known.items()}
    return RowCounts(
        samples=samples,
        views=sum(good) - samples,
        failed=statuses.count(receipts.FAILED),
        absent=statuses.count(receipts.NOT_LISTED),
        psnr_samples=len(known["psnr"]),
        **means,
    )


def take_inventory(store: LatentStore) -> dict[str, Any]:
    """Returns what a store holds, JSON-ready; `latent-store inspect --json` prints it.

    Sizes are bytes of objects as they lie there. `bytes` is all of them, and `bytes_of` splits it:
    components; codecs with weights, tables and rankings; teachers' checkpoints; records (plans,
    receipts, indexes, leases, groups); other, which is no part of the store.
    """
    sizes = store.location.sizes("")
    splits = [_describe_split(store[name], sizes) for name in store.splits()]
    bytes_of = {
        "components": sum(c["bytes"] for split in splits for c in split["components"]),
        "codecs": _total(sizes, "codecs/", f"{CONTROL}/codecs/"),
        "teachers": _total(sizes, f"{CONTROL}/teachers/"),
    }
    records = _total(sizes, f"{CONTROL}/") - _total(sizes, f"{CONTROL}/codecs/")
    prefixes = [f"{s['name']}/{c['key']}/" for s in splits for c in s["components"]]
    groups = {
        key: size
        for key, size in sizes.items()
        if key.rpartition("/")[2] == "zarr.json"
        and not key.startswith((f"{CONTROL}/", "codecs/", *prefixes))
    }
    bytes_of["records"] = records - bytes_of["teachers"] + sum(groups.values())
    total = sum(sizes.values())
    return {
        "url": store.url,
        "bytes": total,
        "bytes_of": {**bytes_of, "other": total - sum(bytes_of.values())},
        "codecs": [_describe_codec(store, codec_id, sizes) for codec_id in store.codecs()],
        "teachers": [
            {"teacher_id": name, "bytes": sizes.get(codecs.teacher_key(name), 0)}
            for name in store.teachers()
        ],
        "splits": splits,
    }


def _total(sizes: Mapping[str, int], *prefixes: str) -> int:
    return sum(size for key, size in sizes.items() if key.startswith(prefixes))


def _describe_codec(store: LatentStore, codec_id: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    rankings = [store.ranking(codec_id, name) for name in store.rankings(codec_id)]
    return {
        **store.codec(codec_id).to_attrs(),
        "bytes": _total(sizes, f"codecs/{codec_id}/")
        + sizes.get(codecs.checkpoint_key(codec_id), 0),
        "rankings": [
            {
                "ranking_id": ranking.ranking_id,
                "method": ranking.method,
                "task": ranking.task,
                "num_samples": ranking.num_samples,
                "cuts": list(ranking.cuts),
                "tied_at_cut": {str(n): count for n, count in ranking.tied_at_cut.items()},
            }
            for ranking in rankings
        ],
    }


def _describe_split(split: Split, sizes: Mapping[str, int]) -> dict[str, Any]:
    plan, location = split.plan, split.store.location
    components = []
    for key, complete in split.components().items():
        counts: dict[str, Any] = dict.fromkeys(f.name for f in dataclasses.fields(RowCounts))
        state = INCOMPLETE
        if complete:
            group = component.open_component(location, plan.name, key)
            # What is finished is read; the job that adds to it runs, or was killed.
            state = GROWING if component.pending(group) else COMPLETE
            counts = dataclasses.asdict(
                count_rows(plan, OpenComponent(location, plan.name, key).index, key)
            )
        stored = _total(sizes, f"{plan.name}/{key}/")
        components.append({"key": key, "state": state, "bytes": stored, **counts})
    return {
        "name": plan.name,
        "samples": plan.num_originals,
        "views": len(plan.samples) - plan.num_originals,
        "num_shards": plan.num_shards,
        "samples_per_shard": plan.samples_per_shard,
        "canvas": list(plan.canvas),
        "mixed_sizes": plan.mixed_sizes,
        "components": components,
    }
