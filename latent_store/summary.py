"""What a store holds, in words: `latent-store inspect`, and the first cell of a notebook."""

from __future__ import annotations

import numpy as np

from latent_store import component, index
from latent_store.location import Location
from latent_store.reader import LatentStore, Split


def describe(store: LatentStore) -> str:
    """Returns what a store holds: codecs, rankings, and every component with size and state."""
    lines = [f"{store.url}: latent store"]
    for codec_id, spec in store.codecs().items():
        made = f"{spec.source}" + (f", quality {spec.quality}" if spec.quality else "")
        lines.append(f"codec {codec_id} ({made}; N={spec.hyper_channels}, M={spec.channels})")
        for ranking_id in store.rankings(codec_id):
            ranking = store.ranking(codec_id, ranking_id)
            cuts = " ".join(map(str, ranking.cuts))
            what = f"by {ranking.method} over {ranking.num_samples} samples"
            lines.append(f"  ranking {ranking_id} {what}, cuts {cuts}")
    lines += [f"teacher {teacher_id}" for teacher_id in store.teachers()]
    for name in store.splits():
        lines += _describe_split(store, store[name])
    return "\n".join(lines)


def _describe_split(store: LatentStore, split: Split) -> list[str]:
    plan = split.plan
    rows = f"{plan.num_shards} shards of {plan.samples_per_shard}"
    size = f"{plan.canvas[0]}x{plan.canvas[1]}"
    lines = [f"split {plan.name}: {len(plan.samples)} samples in {rows}, coded at {size}"]
    for key, complete in split.components().items():
        size = sum(store.location.sizes(f"{plan.name}/{key}").values())
        state = "complete" if complete else "INCOMPLETE"
        line = f"  {key:<56} {state:<10} {size / 2**20:9.2f} MiB"
        if complete:
            line += _describe_rows(store.location, plan.name, key)
        lines.append(line)
    return lines


def _describe_rows(location: Location, split: str, key: str) -> str:
    group = component.open_component(location, split, key)
    component.require_intact(location, group)
    table = component.read_table(location, group, split, index.part_name(key))
    failed = len(index.dead_letters(table))
    text = f"  {table.num_rows - failed} rows" + (f", {failed} failed" if failed else "")
    for name, unit in (("bpp", "bpp"), ("psnr", "dB")):
        if name in table.column_names:
            values = [value for value in table[name].to_pylist() if value is not None]
            text += f", {np.mean(values):.4g} {unit}" if values else ""
    return text
