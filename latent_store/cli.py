"""`latent-store`: look at a store, check it, close it, decode its pictures, share its stream."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from latent_store.catalogue.rankings import lease_name, write_ranking
from latent_store.components import finalize
from latent_store.console import (
    Number,
    add_storage_flag,
    make_parser,
    progress,
    run_command,
    spell_flags,
)
from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from latent_store.storage.object_stores import input_file, open_location
from latent_store.store import LatentStore, Split
from latent_store.tools import verify as integrity
from latent_store.tools.shared_orders import describe_sharing, share_order, shared_cuts
from latent_store.tools.strays import describe_strays, find_strays
from latent_store.views.inventory import take_inventory
from latent_store.views.summary import describe

DESCRIPTION = """
Looks at a latent store, checks it, closes it, decodes its pictures, and takes them out as stream
files, which decode without the store. Merges the rankings of several tasks into the order of one
stream that serves them all.
"""
EXAMPLES = """
examples:
  latent-store inspect cityscapes.zarr
  latent-store verify cityscapes.zarr --deep
  latent-store decode cityscapes.zarr --sample aachen_000000_000019 --ranking gate \\
      --channels 16 32 64 128 all --strip --output channels.png
  latent-store export cityscapes.zarr --sample aachen_000000_000019 --ranking gate \\
      --output aachen.stream
  latent-store decode aachen.stream --channels 16 --store cityscapes.zarr --output x16.png
  latent-store share voc.zarr --rankings segmentation detection --name both --split voc2012/trainval
  latent-store selfcheck cityscapes.zarr
  latent-store finalize gs://bucket/cityscapes.zarr
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("latent-store", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("latent-store", DESCRIPTION, EXAMPLES)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help="what the store holds, and what it costs")
    verify = actions.add_parser("verify", help="is it what was written? exits 1 if not")
    verify.add_argument("--deep", action="store_true", help="decode every stream (loads torch)")
    verify.add_argument("--repair", action="store_true", help="drop what is broken, for a rerun")
    for action in (inspect, verify):
        action.add_argument("--json", action="store_true", help="print one JSON object instead")
    close = actions.add_parser("finalize", help="close what killed jobs have left whole")
    check = actions.add_parser("selfcheck", help="do streams decode alike under all settings?")
    check.add_argument("--codec", help="codec id (default: the only one)")
    few = "only the first N samples of each split"
    check.add_argument("--max_samples", type=Number(int, 1), help=few)
    check.add_argument("--device", default="cpu", help="cpu, or cuda: also decode there")
    export = actions.add_parser("export", help="one sample, as a stream file")
    share = actions.add_parser("share", help="one order of channels for several tasks' rankings")
    for action in (inspect, verify, close, check, export, share):
        action.add_argument("url", metavar="URL", help="folder or URL of the store")
    decode = actions.add_parser("decode", help="one picture, from all channels or a few")
    decode.add_argument("url", metavar="URL|FILE", help="a store, or a stream file")
    _add_decode_flags(decode)
    for action in (inspect, verify, close, check, export, share, decode):
        add_storage_flag(action)
    export.add_argument("--sample", required=True, help="sample id")
    export.add_argument("--channels", default="all", help="all, or N: up to that cut")
    export.add_argument("--output", type=Path, required=True, help="stream file to write")
    share.add_argument("--rankings", nargs="+", required=True, help="the tasks' rankings")
    share.add_argument("--name", required=True, help="name of the ranking to write")
    share.add_argument("--split", help="dataset/split whose rates to show (default: the only one)")
    share.add_argument("--codec", help="codec id (default: the only one)")
    share.add_argument("--overwrite", action="store_true", help="replace a ranking of that name")
    for action in (verify, close, share):
        action.add_argument(
            "--steal_lease", action="store_true", help="take over from a job that is known dead"
        )
    for action in (decode, export):
        action.add_argument("--split", help="dataset/split, where several have that sample")
        action.add_argument("--ranking", help="ranking of N channels (default: the only one)")
        action.add_argument("--codec", help="codec id (default: the only one)")
    return parser


def _add_decode_flags(decode: argparse.ArgumentParser) -> None:
    add = decode.add_argument
    add("--sample", help="sample id; for a store")
    add(
        "--channels", nargs="+", default=["all"], help="all, or N: the N most important; or several"
    )
    add("--output", type=Path, required=True, help="PNG file; a folder for several --channels")
    add("--strip", action="store_true", help="several --channels side by side in one PNG")
    add("--image", type=Path, help="the original picture, to measure PSNR against")
    add("--codec_checkpoint", type=input_file, help="codec of a stream file")
    add("--store", help="store that keeps the codec of a stream file")


def _run(flags: argparse.Namespace) -> int:
    if flags.action in ("decode", "export", "selfcheck"):
        # They load torch, which nothing else here needs.
        from latent_store.tools import commands

        actions = (commands.decode, commands.export, commands.selfcheck)
        return {action.__name__: action for action in actions}[flags.action](flags)
    location = open_location(flags.url)
    store = LatentStore(location)
    if flags.action == "inspect":
        return _inspect(store, as_json=flags.json)
    if flags.action == "finalize":
        return _finalize(location, steal=flags.steal_lease)
    if flags.action == "share":
        return _share(store, flags)
    return _verify(location, flags)


def _inspect(store: LatentStore, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({**take_inventory(store), "strays": find_strays(store.location)}))
        return 0
    print(describe(store))
    _name_strays(store.location)
    return 0


def _finalize(location: Location, *, steal: bool) -> int:
    failed = 0
    for outcome in finalize.finalize_all(location, steal=steal):
        if isinstance(outcome, JobFailedError):
            failed += 1
            print(spell_flags(str(outcome)))
        else:
            print(f"{outcome.split}/{outcome.component}: complete, {outcome.num_shards} shards")
    _name_strays(location)
    return 1 if failed else 0


def _name_strays(location: Location) -> None:
    line = describe_strays(location)
    if line:
        print(line)


def _share(store: LatentStore, flags: argparse.Namespace) -> int:
    codec_id = store.codec(flags.codec).codec_id
    rankings = [store.ranking(codec_id, name) for name in flags.rankings]
    ranking = share_order(rankings, flags.name)
    table = describe_sharing(shared_cuts(rankings, _one_split(store, flags.split)))
    with Lease(store.location, *lease_name(codec_id, flags.name), steal=flags.steal_lease):
        write_ranking(store.location, ranking, overwrite=flags.overwrite)
    cuts = " ".join(map(str, ranking.cuts))
    print(f"{flags.name}: one order of {codec_id} for {', '.join(flags.rankings)}; cuts {cuts}")
    print(table)
    return 0


def _one_split(store: LatentStore, name: str | None) -> Split:
    known = store.splits()
    if name is None and len(known) != 1:
        raise LatentStoreError(
            f"{store.url} has the splits {', '.join(known) or 'none'}: choose one with --split"
        )
    return store[name or known[0]]


def _verify(location: Location, flags: argparse.Namespace) -> int:
    check: integrity.DeepCheck | None = None
    if flags.deep:
        # Loads torch, which nothing else here needs.
        from latent_store.tools.verify_streams import check_streams

        check = check_streams
    with progress(desc="verify", unit="shard") as bar:
        found = list(integrity.verify(location, deep=check, on_shard=lambda _: bar.update()))
    repair = partial(integrity.repair, location, found, deep=check, steal=flags.steal_lease)
    if flags.json:
        repairs = flags.repair and found
        told = {
            "url": location.url,
            "deep": flags.deep,
            "holds": not found,
            "defects": [dataclasses.asdict(defect) for defect in found],
            "strays": find_strays(location),
            "dropped_shards": repair() if repairs else 0,
        }
        print(json.dumps(told))
        return 1 if found else 0
    for defect in found:
        print(spell_flags(str(defect)))
    _name_strays(location)
    if not found:
        print(f"{location.url}: no defects")
        return 0
    if flags.repair:
        print(f"dropped {repair()} shards; run their jobs again, which write only those")
    return 1


if __name__ == "__main__":
    sys.exit(main())
