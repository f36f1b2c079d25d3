"""`latent-store`: look at a store, check it, close it, decode its pictures, share its stream; look
at what is installed."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial

from latent_store.catalogue.rankings import lease_name, write_ranking
from latent_store.components import finalize
from latent_store.components.registry import component_keys
from latent_store.console import progress, run_command, spell_flags
from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from latent_store.store import LatentStore, Split
from latent_store.tools import verify as integrity
from latent_store.tools.doctor import PROBLEM, examine
from latent_store.tools.flags import make_flags
from latent_store.tools.shared_orders import describe_sharing, share_order, shared_cuts
from latent_store.tools.strays import describe_strays, find_strays
from latent_store.views.inventory import take_inventory
from latent_store.views.summary import describe


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("latent-store", lambda: _run(make_flags().parse_args(argv)))


def _run(flags: argparse.Namespace) -> int:
    if flags.action in ("decode", "export", "selfcheck"):
        # They load torch, which nothing else here needs.
        from latent_store.tools import commands

        actions = (commands.decode, commands.export, commands.selfcheck)
        return {action.__name__: action for action in actions}[flags.action](flags)
    if flags.action == "doctor":
        return _doctor(flags)
    location = open_location(flags.url)
    store = LatentStore(location)
    if flags.action == "inspect":
        return _inspect(store, as_json=flags.json)
    if flags.action == "finalize":
        return _finalize(location, steal=flags.steal_lease)
    if flags.action == "share":
        return _share(store, flags)
    return _verify(store, flags)


def _inspect(store: LatentStore, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({**take_inventory(store), "strays": find_strays(store.location)}))
        return 0
    print(describe(store))
    _name_strays(store.location)
    return 0


def _doctor(flags: argparse.Namespace) -> int:
    location = None if flags.url is None else open_location(flags.url)
    findings = []
    for finding in examine(location):
        findings.append(finding)
        if not flags.json:
            print(finding, flush=True)
    fit = all(finding.state != PROBLEM for finding in findings)
    if flags.json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"fit": fit, "findings": found}))
    return 0 if fit else 1


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


def _count_shards(store: LatentStore) -> int:
    """Returns how many shards there are to look at; those of what cannot be read are left out."""
    count = 0
    for name in store.splits():
        with contextlib.suppress(*integrity.BROKEN):
            plan = store[name].plan
            count += plan.num_shards * len(component_keys(store.location, name))
    return count


def _verify(store: LatentStore, flags: argparse.Namespace) -> int:
    location = store.location
    check: integrity.DeepCheck | None = None
    if flags.deep:
        # Loads torch, which nothing else here needs.
        from latent_store.tools.verify_streams import check_streams

        check = check_streams
    with progress(desc="verify", unit="shard", total=_count_shards(store)) as bar:
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
        dropped = repair()
        shards = "1 shard" if dropped == 1 else f"{dropped} shards"
        print(f"dropped {shards}; run their jobs again, which write only what is not there")
    elif any(defect.shard is not None for defect in found):
        print("--repair drops broken shards; their jobs, run again, write only those")
    return 1


if __name__ == "__main__":
    sys.exit(main())
