"""The content of a store in words: `latent-store inspect`, and the first cell of a notebook."""

from __future__ import annotations

import itertools

import numpy as np

from latent_store.catalogue.rankings import compare_rankings, describe_agreement
from latent_store.components import base as component
from latent_store.components.reader import OpenComponent
from latent_store.format.plan import ShardPlan
from latent_store.shards import receipts
from latent_store.storage.location import Location
from latent_store.store import LatentStore, Split


def describe(store: LatentStore) -> str:
    """Returns what a store holds: codecs, rankings, and every component with size and state."""
    lines = [f"{store.url}: latent store"]
    for codec_id, spec in store.codecs().items():
        made = f"{spec.source}" + (f", quality {spec.quality}" if spec.quality else "")
        lines.append(f"codec {codec_id} ({made}; N={spec.hyper_channels}, M={spec.channels})")
        known = [store.ranking(codec_id, name) for name in store.rankings(codec_id)]
        for ranking in known:
            cuts = " ".join(map(str, ranking.cuts))
            what = f"by {ranking.method} over {ranking.num_samples} samples"
            lines.append(f"  ranking {ranking.ranking_id} {what}, cuts {cuts}")
            tied = {n: count for n, count in ranking.tied_at_cut.items() if count}
            lines += [f"    N = {n}: undetermined ({count} tied)" for n, count in tied.items()]
            if ranking.halves is not None:
                found = describe_agreement(ranking.halves)
                lines.append(f"    {found} between halves of the samples")
        for first, second in itertools.combinations(known, 2):
            found = describe_agreement(compare_rankings(first, second))
            lines.append(f"  rankings {first.ranking_id} and {second.ranking_id}: {found}")
    lines += [f"teacher {teacher_id}" for teacher_id in store.teachers()]
    for name in store.splits():
        lines += _describe_split(store, store[name])
    return "\n".join(lines)


def _describe_split(store: LatentStore, split: Split) -> list[str]:
    plan = split.plan
    rows = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    size = f"{plan.canvas[0]}x{plan.canvas[1]}"
    place = f"on a canvas of {size}" if plan.mixed_sizes else f"coded at {size}"
    lines = [f"split {plan.name}: {plan.describe_samples()} in {rows}, {place}"]
    for key, complete in split.components().items():
        stored = sum(store.location.sizes(f"{plan.name}/{key}").values())
        state = "complete" if complete else "INCOMPLETE"
        group = component.open_component(store.location, plan.name, key)
        if complete and component.pending(group):
            # What is finished is read; the job that adds to it runs, or was killed.
            state = "GROWING"
        line = f"  {key:<56} {state:<10} {stored / 2**20:9.2f} MiB"
        if complete:
            line += f"  {describe_rows(store.location, plan, key)}"
        lines.append(line)
    return lines


def describe_rows(location: Location, plan: ShardPlan, key: str, where: str = "") -> str:
    """Returns what a finished component holds: samples, failed and absent rows, mean rate and PSNR.

    Views are counted apart and left out of the means: they show the same pictures again. `where`
    is put after the number of samples.
    """
    table = OpenComponent(location, plan.name, key).index
    rows, ids = (table[name].to_pylist() for name in ("row", "sample_id"))
    plan.require_samples(rows, ids, key)
    original = [plan.source_rows[row] == row for row in rows]
    statuses = table["status"].to_pylist()
    good = [status == receipts.OK for status in statuses]
    count = sum(fine for fine, first in zip(good, original, strict=True) if first)
    views = sum(good) - count
    text = f"{count} samples" + (f" and {views} views" if views else "") + where
    for status in (receipts.FAILED, receipts.NOT_LISTED):
        text += f", {statuses.count(status)} {status}" if status in statuses else ""
    table = table.filter(original)
    for name, symbol in (("bpp", "bpp"), ("psnr", "dB PSNR")):
        if name in table.column_names:
            values = [value for value in table[name].to_pylist() if value is not None]
            text += f", {np.mean(values):.4g} {symbol}" if values else ""
    return text
