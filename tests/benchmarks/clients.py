"""Clients of object stores: what a request, a job and an epoch cost with each of them.

    pip install obstore
    python -m tests.benchmarks.clients

Reads, lists, writes, takes leases, runs small jobs and trains for an epoch, by the package's own
functions, from a bucket 20 ms and 200 MB/s away: with s3fs as it is, with as many connections as
there are requests at once, with obstore in the place of fsspec, and with its file system for
fsspec. Each runs in a process of its own, in turns; medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

from latent_store.console import Number, make_parser, progress, run_command
from latent_store.errors import MissingExtraError
from tests.benchmarks.commands import run_python
from tests.benchmarks.environment import conditions
from tests.benchmarks.object_clients import (
    BLOCK,
    CLIENTS,
    EACH,
    EPOCH,
    NAMES,
    OBJECTS,
    OBSTORE,
    OURS,
    PIECE,
    REQUESTS,
    WIDER,
    WRAPPER,
    Found,
    make_small,
)
from tests.benchmarks.reading_data import Pictures, write_ours
from tests.benchmarks.reading_peers import BATCH
from tests.benchmarks.slow_bucket import serving
from tests.benchmarks.table import markdown

LOADED = {OURS: "s3fs", WIDER: "s3fs", OBSTORE: "obstore.store", WRAPPER: "obstore.fsspec"}
IMPORT = "import"
_ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.clients", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.clients", __doc__ or "")
    add = parser.add_argument
    add("--samples", type=Number(int, BATCH), default=96, help="pictures of the epoch")
    add("--rounds", type=Number(int, 1), default=3, help="times that each is measured")
    return parser


def _run(flags: argparse.Namespace) -> int:
    missing = [name for name in ("s3fs", "obstore") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} must be installed: pip install s3fs obstore"
        )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        _make(Path(folder), flags.samples)
        with serving(Path(folder)) as endpoint:
            turns = list(_turns(endpoint, flags.rounds))
    print(f"{conditions(('s3fs', 'aiobotocore', 'aiohttp', 'obstore'))}.\n")
    print("By the clock / of a core, in ms of each where there are several, else in s, requests.\n")
    found = {client: [turn[client] for turn in turns] for client in CLIENTS}
    whats = list(turns[0][OURS])
    rows = [[what, *(_cell(what, of) for of in found.values())] for what in whats]
    print(markdown(["", *CLIENTS], rows))
    return 0


def _make(root: Path, samples: int) -> None:
    (root / "objects").mkdir()
    (root / "names").mkdir()
    for n in range(OBJECTS):
        (root / "objects" / str(n)).write_bytes(BLOCK)
    for n in range(NAMES):
        (root / "names" / str(n)).write_bytes(PIECE)
    make_small(str(root / "small.zarr"))
    write_ours(root / "ours.zarr", Pictures(samples))


def _turns(endpoint: str, rounds: int) -> Iterator[dict[str, Found]]:
    """Yields by the client what each took; the first turn reads files from disk and is left out."""
    for turn in progress(range(rounds + 1), desc="clients", unit="round"):
        found = {client: _measure(client, endpoint) for client in CLIENTS}
        if turn:
            yield found


def _measure(client: str, endpoint: str) -> Found:
    loaded = run_python("-c", f"import {LOADED[client]}")
    found: Found = {IMPORT: [loaded.wall, loaded.cpu, 0]}
    for what in (REQUESTS, EPOCH):
        call = ("-m", "tests.benchmarks.object_clients", client, endpoint, what)
        found |= json.loads(run_python(*call).text)
    return found


def _cell(what: str, turns: Sequence[Found]) -> str:
    spent = [turn.get(what, "") for turn in turns]
    failed = [one for one in spent if isinstance(one, str)]
    if failed:
        return failed[0]
    wall, core, asked = (median(column) for column in zip(*spent, strict=True))
    if what in EACH:
        each = 1e3 / EACH[what]
        return f"{each * wall:.2f} / {each * core:.2f}"
    return f"{wall:.2f} / {core:.2f}" + (f", {asked:.0f}" if asked else "")


if __name__ == "__main__":
    sys.exit(main())
