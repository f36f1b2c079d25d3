"""The content of a store in words: `latent-store inspect`, and the first cell of a notebook."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from latent_store.catalogue.rankings import compare_rankings, describe_agreement
from latent_store.store import LatentStore, Split
from latent_store.views.inventory import COMPLETE, RowCounts, take_inventory


def describe(store: LatentStore) -> str:
    """Returns what a store holds: codecs, rankings, and every component with size and state."""
    inventory = take_inventory(store)
    lines = [f"{store.url}: latent store"]
    sizes = {found["codec_id"]: found["bytes"] for found in inventory["codecs"]}
    for codec_id, spec in store.codecs().items():
        made = f"{spec.source}" + (f", quality {spec.quality}" if spec.quality else "")
        lines.append(
            f"codec {codec_id} ({made}; N={spec.hyper_channels}, M={spec.channels}), "
            f"{_mib(sizes[codec_id])}"
        )
        known = [store.ranking(codec_id, name) for name in store.rankings(codec_id)]
        for ranking in known:
            cuts = " ".join(map(str, ranking.cuts))
            what = f"by {ranking.method} over {ranking.num_samples} samples"
            lines.append(f"  ranking {ranking.ranking_id} {what}, cuts {cuts}")
            tied = {n: count for n, count in ranking.tied_at_cut.items() if count}
            lines += [f"    N = {n}: undetermined ({count} tied)" for n, count in tied.items()]
            if ranking.halves is not None:
                found = describe_agreement(ranking.halves)
                lines.append(f"    both halves of the samples: {found}")
        for first, second in itertools.combinations(known, 2):
            found = describe_agreement(compare_rankings(first, second))
            lines.append(f"  rankings {first.ranking_id} and {second.ranking_id}: {found}")
    for teacher in inventory["teachers"]:
        lines.append(f"teacher {teacher['teacher_id']}, {_mib(teacher['bytes'])}")
    for found in inventory["splits"]:
        lines += _describe_split(store[found["name"]], found["components"])
    lines.append(_describe_bytes(inventory))
    return "\n".join(lines)


def _describe_split(split: Split, components: Sequence[Mapping[str, Any]]) -> list[str]:
    plan = split.plan
    rows = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    size = f"{plan.canvas[0]}x{plan.canvas[1]}"
    place = f"on a canvas of {size}" if plan.mixed_sizes else f"coded at {size}"
    lines = [f"split {plan.name}: {plan.describe_samples()} in {rows}, {place}"]
    for found in components:
        state = COMPLETE if found["state"] == COMPLETE else found["state"].upper()
        line = f"  {found['key']:<56} {state:<10} {_mib(found['bytes']):>13}"
        if found["samples"] is not None:
            counts = RowCounts(**{f.name: found[f.name] for f in dataclasses.fields(RowCounts)})
            line += f"  {counts.describe()}"
        lines.append(line)
    return lines


def _describe_bytes(inventory: Mapping[str, Any]) -> str:
    """Returns one line on all bytes of a store."""
    names = {
        "components": "components",
        "codecs": "codecs and rankings",
        "teachers": "teachers",
        "records": "plans, receipts and indexes",
        "other": "no part of the store",
    }
    parts = [
        f"{text} {_mib(inventory['bytes_of'][name])}"
        for name, text in names.items()
        if inventory["bytes_of"][name]
    ]
    return f"in all {_mib(inventory['bytes'])}: {', '.join(parts)}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
