"""`channel-frequency`: the Beam job that derives static masks from what a gate keeps."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence

from latent_store.catalogue import rankings
from latent_store.catalogue.rankings import Ranking
from latent_store.console import MOST_SEED, Number, run_command
from latent_store.errors import CheckpointError, IdentityError, RankingError
from latent_store.format.ids import require_name
from latent_store.format.schema import CodecSpec
from latent_store.storage.lease import Lease
from latent_store.storage.object_stores import input_file, open_location
from latent_store.store import LatentStore
from pipelines.jobs.job_flags import make_job_parser, parse_flags

DESCRIPTION = """
Ranks a codec's channels for a task. With --method frequency (the paper's) the gate of a dynamic
network decides on every image of the split, without noise, and channels are ordered by how often
it keeps them (a channel that is zero everywhere in an image does not count there). The first N of
the order are the static mask of N channels.
"""
EXAMPLES = """
examples:
  channel-frequency --store cityscapes.zarr --dataset cityscapes --split train \\
      --checkpoint runs/dynamic/last.pt --ranking gate
  channel-frequency --store cityscapes.zarr --dataset cityscapes --split train \\
      --method variance --ranking variance --keep 64 32
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("channel-frequency", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_job_parser("channel-frequency", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--dataset", required=True, help="dataset id in the store")
    add("--split", default="train", help="split to count over")
    add("--codec", help="codec id (default: the only one)")
    add("--ranking", required=True, help="name of the ranking to write")
    add("--method", default="frequency", choices=rankings.METHODS, help="what orders the channels")
    add(
        "--checkpoint",
        type=input_file,
        help="checkpoint of a dynamic network, for --method frequency",
    )
    add("--keep", type=Number(int, 1), nargs="+", help="cut points N (default: 16 32 64 128)")
    add("--seed", type=Number(int, most=MOST_SEED), default=0, help="for --method random")
    add("--strict", action="store_true", help="refuse a ranking with a cut inside a tie")
    add("--overwrite", action="store_true", help="replace a ranking of that name")
    add("--steal_lease", action="store_true", help="take over from a job that is known dead")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    flags, options = parse_flags(make_flags(), argv)
    from pipelines.jobs.counting import CountJob, make_ranking

    require_name(flags.ranking, "a ranking's name")
    location = open_location(flags.store)
    store = LatentStore(location)
    spec = store.codec(flags.codec)
    rankings.make_cuts(flags.keep, spec.channels)  # Before the job, which may take hours.
    split = store[f"{flags.dataset}/{flags.split}"]
    split.latents(spec.codec_id)
    checkpoint, task = _read_gate(flags, spec)
    job = CountJob(
        store=location,
        split=split.plan.name,
        codec_id=spec.codec_id,
        method=flags.method,
        ranking_id=flags.ranking,
    )
    name = rankings.lease_name(spec.codec_id, flags.ranking)
    with Lease(location, *name, steal=flags.steal_lease):
        ranking = make_ranking(
            job.run(range(split.plan.num_shards), checkpoint, options),
            ranking_id=flags.ranking,
            codec_id=spec.codec_id,
            channels=spec.channels,
            method=flags.method,
            keep=flags.keep,
            split=split.plan.name,
            checkpoint_sha256=hashlib.sha256(checkpoint).hexdigest() if checkpoint else None,
            task=task,
            seed=flags.seed,
        )
        _report_ties(ranking, strict=flags.strict)
        rankings.write_ranking(location, ranking, overwrite=flags.overwrite)
    print(_describe(ranking))
    return 0


def _read_gate(flags: argparse.Namespace, spec: CodecSpec) -> tuple[bytes, str]:
    """Returns the checkpoint that is asked for, or nothing, and the task that it is ranked for."""
    if flags.method != "frequency":
        return b"", "any"
    if flags.checkpoint is None:
        raise CheckpointError(
            "--method frequency needs --checkpoint, the file of a --selection dynamic run"
        )
    # They load torch, which other methods need not.
    from pipelines.jobs.gate_counts import load_gate
    from training.trainer.checkpoints import read_file

    data = read_file(flags.checkpoint)
    gate = load_gate(data)
    for name, value in (gate.meta["codec_identity"] or {}).items():
        if spec.identity.get(name) != value:
            raise IdentityError(
                f"{flags.checkpoint} was trained on codec {gate.meta['codec_id']} ({name} "
                f"{value}), this store's is {spec.codec_id} ({spec.identity.get(name)}); give a "
                "network of that codec"
            )
    return data, gate.config.task


def _report_ties(ranking: Ranking, *, strict: bool) -> None:
    tied = {cut: count for cut, count in ranking.tied_at_cut.items() if count}
    if not tied:
        return
    cuts = ", ".join(f"N={cut}: {count} channels tied" for cut, count in tied.items())
    message = (
        f"the score does not decide every cut of {ranking.ranking_id} ({cuts}); train the gate "
        "longer or with --rate_weight, or choose other --keep"
    )
    if strict:
        raise RankingError(message)
    print(f"channel-frequency: warning: {message}", file=sys.stderr)


def _describe(ranking: Ranking) -> str:
    what = f"{len(ranking.order)} channels of {ranking.codec_id} by {ranking.method}"
    lines = [f"{ranking.ranking_id}: {what} over {ranking.num_samples} samples"]
    if ranking.counts is not None:
        always = sum(count == ranking.num_samples for count in ranking.counts)
        never = sum(count == 0 for count in ranking.counts)
        mean = sum(ranking.counts) / max(1, ranking.num_samples)
        lines.append(f"  kept a sample: {mean:.1f} (always {always}, never {never})")
    for cut in ranking.cuts[:-1]:
        edge = ranking.score[ranking.order[cut - 1]], ranking.score[ranking.order[cut]]
        ties = ranking.tied_at_cut[cut]
        state = f"undetermined ({ties} tied)" if ties else "decided"
        scores = f"the last channel kept scores {edge[0]:.6g}, the first left out {edge[1]:.6g}"
        lines.append(f"  N = {cut:<4} {scores}: {state}")
    if ranking.halves is not None:
        lines.append(f"  both halves of the samples: {rankings.describe_agreement(ranking.halves)}")
    lines.append(f"  first 16: {' '.join(str(c) for c in ranking.order[:16])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
