"""The clients of object stores that are compared, each in a process of its own.

`tests.benchmarks.clients` starts it: python -m tests.benchmarks.object_clients CLIENT ENDPOINT WHAT
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np

from latent_store.console import STORAGE_OPTIONS
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from latent_store.storage.requests import AT_ONCE
from latent_store.tools.verify import verify
from tests.benchmarks.slow_bucket import BUCKET, count_requests
from tests.latent_store.made_latents import SPLIT, write_latents

OURS, WIDER, OBSTORE, WRAPPER = "s3fs", f"s3fs, {AT_ONCE} connections", "obstore", "obstore.fsspec"
CLIENTS = (OURS, WIDER, OBSTORE, WRAPPER)
REQUESTS, EPOCH = "requests", "epoch"
"""What one process does."""
BLOCK, PIECE = random.Random(0).randbytes(2**20), random.Random(1).randbytes(2**12)
"""What each object holds, and what each of those that are listed."""
OBJECTS, NAMES, SHARDS = 96, 2500, 16
"""Objects that are read; objects that are listed; shards of a small store that is written and
checked."""
MADE = {"channels": 16, "counts": (2 * SHARDS,), "samples_per_shard": 2, "size": (60, 100)}
FIRST, LISTED, TAKEN = "a new process's first answer", f"a list of {NAMES:,}", "16 leases, in turn"
SMALL, LARGE, WHOLE = "960 read, 4 KiB", f"{OBJECTS} ranges, 256 KiB", f"{OBJECTS} read, 1 MiB"
WRITTEN = "256 written, 4 KiB"
JOB, CHECK = f"{SHARDS} shards written, closed", f"{SHARDS} shards verified"
OPENED, REST = "opening, first batch", "the epoch's other batches"
EACH = {SMALL: 960, LARGE: OBJECTS, WHOLE: OBJECTS, WRITTEN: 256, TAKEN: 16}
"""How many things are read or written, where one of them is told."""
Found = dict[str, list[float] | str]
"""What was done -> seconds by the clock, of a core, and requests; or why it failed."""


def options_of(client: str, endpoint: str) -> dict[str, Any]:
    """Returns a client's options, in its own words."""
    if client in (OBSTORE, WRAPPER):
        who = {"access_key_id": "somebody", "secret_access_key": "nothing", "region": "us-east-1"}
        return {"endpoint": endpoint, **who, "client_options": {"allow_http": True}}
    wide = {"config_kwargs": {"max_pool_connections": AT_ONCE}} if client == WIDER else {}
    return {"endpoint_url": endpoint, "key": "somebody", "secret": "nothing", **wide}


def install(client: str) -> None:
    """Lets a client reach whatever this process opens."""
    if client == OBSTORE:
        from tests.benchmarks import obstore_requests

        obstore_requests.install()
    elif client == WRAPPER:
        from obstore.fsspec import FsspecStore

        class Wrapper(FsspecStore):
            protocol = "s3"

            def __init__(self, *args: Any, use_listings_cache: bool = False, **options: Any):
                super().__init__(*args, **options)

        fsspec.register_implementation("s3", Wrapper, clobber=True)


def make_small(url: str) -> None:
    """Writes a small store of many objects, and closes it."""
    write_latents(url, lambda row: np.full((16, 4, 8), row, dtype=np.int8), dtype="int8", **MADE)


class Clock:
    """Takes the time of what one client does."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.found: Found = {}

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        count_requests(self.endpoint)
        wall, core = time.perf_counter(), time.process_time()
        try:
            yield
        except Exception as error:  # noqa: BLE001  (clients raise what they like)
            self.found[what] = f"fails: {type(error).__name__}"
            return
        spent = [time.perf_counter() - wall, time.process_time() - core]
        self.found[what] = [*spent, count_requests(self.endpoint)]


class WrongAnswerError(Exception):
    """A client says what is not so."""


def _require(*holds: bool) -> None:
    if not all(holds):
        raise WrongAnswerError


def ask(clock: Clock, client: str) -> None:
    """Does what readers and jobs do, at one address each."""
    url = f"s3://{BUCKET}"
    with clock.timed(FIRST):
        install(client)
        location = Location(f"{url}/objects")
        _require(location.read("0") == BLOCK)
    names = Location(f"{url}/names")
    with clock.timed(SMALL):
        pieces = names.read_all([str(n) for n in range(EACH[SMALL])], 2**13)
        _require(*(data == PIECE for data in pieces.values()))
    with clock.timed(LARGE):
        parts = location.read_ranges([(str(n), 2**18, 2**19) for n in range(OBJECTS)])
        _require(*(data == BLOCK[2**18 : 2**19] for data in parts))
    with clock.timed(WHOLE):
        wholes = location.read_all([str(n) for n in range(OBJECTS)], 2**21)
        _require(*(data == BLOCK for data in wholes.values()))
    with clock.timed(LISTED):
        _require(len(names.listed("")) == NAMES)
    new = Location(f"{url}/{uuid4().hex}")
    with clock.timed(WRITTEN):
        new.write_all({f"written/{n}": PIECE for n in range(EACH[WRITTEN])})
    with clock.timed(TAKEN):
        for n in range(EACH[TAKEN]):
            with Lease(new, SPLIT, str(n), fenced=False) as lease:
                _require(not new.create(lease.key, b""))
    with clock.timed(JOB):
        make_small(f"{url}/{uuid4().hex}.zarr")
    with clock.timed(CHECK):
        _require(not list(verify(Location(f"{url}/small.zarr"))))


def train(clock: Clock, client: str) -> None:
    """Reads an epoch as a trainer does, with two threads; torch is loaded before."""
    from tests.benchmarks.reading import FULL, open_loader

    install(client)
    with clock.timed(OPENED):
        loader = open_loader(FULL, f"s3://{BUCKET}/ours.zarr", 2)
        batches = iter(loader)
        next(batches)
    if isinstance(clock.found[OPENED], str):
        return
    with clock.timed(REST), closing(loader):
        for _ in batches:
            pass


DOES: dict[str, Callable[[Clock, str], None]] = {REQUESTS: ask, EPOCH: train}


def main() -> None:
    """Does one thing with one client; prints what it took."""
    client, endpoint, what = sys.argv[1:]
    os.environ[STORAGE_OPTIONS] = json.dumps(options_of(client, endpoint))
    clock = Clock(endpoint)
    DOES[what](clock, client)
    print(json.dumps(clock.found))


if __name__ == "__main__":
    main()
