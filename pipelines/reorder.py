"""`reorder-latents`: the Beam job that writes a ranking's copy of a split's latents."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from uuid import uuid4

import numpy as np

from latent_store.catalogue.rankings import Ranking
from latent_store.components import creation
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import ranked_spec
from latent_store.console import run_command
from latent_store.storage.groups import read_metadata
from latent_store.storage.object_stores import open_location
from latent_store.storage.remembering import RememberingLocation
from latent_store.store import Split
from pipelines.jobs.job_flags import make_job_parser, parse_flags

DESCRIPTION = """
Writes latents once more in a ranking's order of importance: a network that needs N channels then
reads only the chunks that hold the first N, and one scalable bitstream an image serves every N by
its prefix. Needs no picture and no g_a.
"""
EXAMPLES = """
examples:
  reorder-latents --store cityscapes.zarr --dataset cityscapes --split train --ranking gate
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("reorder-latents", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_job_parser("reorder-latents", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--dataset", required=True, help="dataset id in the store")
    add("--split", required=True, help="split to reorder")
    add("--ranking", required=True, help="ranking that channel-frequency wrote")
    add("--codec", help="codec id (default: the only one)")
    add("--overwrite", action="store_true", help="make a copy of an older ranking again")
    add("--steal_lease", action="store_true", help="take over from a job that is known dead")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    flags, options = parse_flags(make_flags(), argv)
    # They load torch, which parsing needs not.
    from pipelines.jobs.beam_jobs import worker_cores
    from pipelines.jobs.component_job import leased
    from pipelines.jobs.encoding import load_store_codec
    from pipelines.jobs.opened import open_latents, open_split
    from pipelines.jobs.reordering import ReorderJob

    location = RememberingLocation.of(open_location(flags.store))
    run_id, name = uuid4().hex, f"{flags.dataset}/{flags.split}"
    split = open_split(location, name, run_id)
    store = split.store
    codec = store.codec(flags.codec)
    ranking = store.ranking(codec.codec_id, flags.ranking)
    latents = open_latents(location, name, codec.codec_id, run_id)
    load_store_codec(location, codec.codec_id)  # one that cannot be used is told before the shards
    # Where the latents are behind the plan, so is the copy: it follows when they have caught up.
    plan = split.plan.require_whole().up_to(latents.record.num_rows or 0)
    canvas, dtype = split.plan.canvas, str(latents.array("y_hat").dtype)
    spec = ranked_spec(codec, ranking.ranking_id, ranking.order, ranking.cuts, canvas, dtype)
    path = f"{split.plan.name}/{spec.key}"
    with leased(location, split.plan.name, [spec.key], steal=flags.steal_lease) as claims:
        before = None if flags.overwrite else read_metadata(location, path)
        if flags.overwrite:
            # Its ranking may have been made again.
            creation.forget_component(location, split.plan.name, spec.key)
        job = ReorderJob(
            store=location,
            split=split.plan.name,
            cores=worker_cores(options),
            claims=claims,
            # Rows without latents fail here too; the encoding job judged them already.
            max_failures=len(split.plan.samples),
            run_id=run_id,
            ranking=ranking,
            copy=spec,
        )
        for _ in job.run(plan, options):
            if before is not None and read_metadata(location, path) == before:
                there = f"everything asked for is there ({plan.describe_samples()})"
                print(f"{split.plan.name}: {there}; --overwrite makes it again")
            print(_summary(split, latents, ranking))
    return 0


def _summary(split: Split, latents: LatentsReader, ranking: Ranking) -> str:
    reader = split.ranked(ranking.ranking_id, ranking.codec_id)
    rows = split.common_rows(reader, latents)
    pixels = split.sizes(rows).prod(axis=1)
    hyper = latents.stream_bytes(rows)["z"]
    views = len(split.common_rows(reader, latents, views=True)) - len(rows)
    more = f" and {views} views" if views else ""
    lines = [f"{split.plan.name}/{reader.key}: {len(rows)} samples{more}"]
    for cut, length in zip(reader.cuts, reader.cut_bytes(rows).T, strict=True):
        bpp = np.mean(8 * (length + hyper) / pixels)
        lines.append(
            f"  N = {cut:<4} {bpp:.4f} bpp (hyper-latent {np.mean(8 * hyper / pixels):.4f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
