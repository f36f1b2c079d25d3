"""``latent-store``: look at a store, check it, close it, and decode one of its pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from latent_store import finalize, integrity
from latent_store.console import make_parser, progress, run_command
from latent_store.errors import JobFailedError, MissingComponentError
from latent_store.location import Location
from latent_store.reader import LatentStore, Split
from latent_store.sample_ids import normal_id
from latent_store.summary import describe

DESCRIPTION = """
Looks at a latent store, checks it, closes it, or decodes one of its pictures.
"""
EXAMPLES = """
examples:
  latent-store inspect cityscapes.zarr
  latent-store verify cityscapes.zarr --deep
  latent-store decode cityscapes.zarr --sample aachen_000000_000019 --channels 16 --ranking gate \\
      --output x16.png
  latent-store finalize gs://bucket/cityscapes.zarr
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``."""
    return run_command("latent-store", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("latent-store", DESCRIPTION, EXAMPLES)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help="what the store holds, and what it costs")
    verify = actions.add_parser("verify", help="is it what was written? exits 1 if not")
    verify.add_argument("--deep", action="store_true", help="decode every stream (loads torch)")
    verify.add_argument("--repair", action="store_true", help="drop what is broken, for a rerun")
    close = actions.add_parser("finalize", help="close what detached jobs have written")
    decode = actions.add_parser("decode", help="one picture, from all channels or a few")
    for action in (inspect, verify, close, decode):
        action.add_argument("url", metavar="URL", help="folder or URL of the store")
    decode.add_argument("--sample", required=True, help="sample id")
    decode.add_argument("--channels", default="all", help="all, or N: the N most important")
    decode.add_argument("--ranking", help="ranking for --channels N (default: the only one)")
    decode.add_argument("--codec", help="codec id (default: the only one)")
    decode.add_argument("--output", type=Path, required=True, help="PNG file to write")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    flags = make_flags().parse_args(argv)
    location = Location(flags.url)
    store = LatentStore(location)
    if flags.action == "inspect":
        print(describe(store))
        return 0
    if flags.action == "finalize":
        return _finalize(location)
    if flags.action == "decode":
        return _decode(store, flags)
    return _verify(location, deep=flags.deep, repair=flags.repair)


def _finalize(location: Location) -> int:
    failed = 0
    for outcome in finalize.finalize_all(location):
        if isinstance(outcome, JobFailedError):
            failed += 1
            print(outcome)
        else:
            print(f"{outcome.split}/{outcome.component}: complete, {outcome.num_shards} shards")
    return 1 if failed else 0


def _verify(location: Location, *, deep: bool, repair: bool) -> int:
    check = None
    if deep:
        # Loads torch, which nothing else here needs.
        from latent_store.codec.deep_check import check_streams as check
    with progress(desc="verify", unit="shard") as bar:
        found = list(integrity.verify(location, deep=check, on_shard=lambda _: bar.update()))
    for defect in found:
        print(defect)
    if not found:
        print(f"{location.url}: no defects")
        return 0
    if repair:
        dropped = integrity.repair(location, found)
        print(f"dropped {dropped} shards; run their jobs again, which write only those")
    return 1


def _decode(store: LatentStore, flags: argparse.Namespace) -> int:
    from latent_store.codec.decoding import decode_sample

    split = _split_of(store, flags.sample)
    decoded = decode_sample(split, flags.sample, flags.channels, flags.codec, flags.ranking)
    decoded.save(flags.output)
    print(decoded.describe(flags.output))
    return 0


def _split_of(store: LatentStore, sample_id: str) -> Split:
    wanted = normal_id(sample_id)
    for name in store.splits():
        split = store[name]
        if any(sample.sample_id == wanted for sample in split.plan.samples):
            return split
    message = f"{store.url} has no sample {sample_id!r} in any of: {', '.join(store.splits())}"
    raise MissingComponentError(message)
