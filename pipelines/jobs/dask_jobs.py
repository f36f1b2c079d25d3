"""Jobs on a Dask cluster: a task a shard, which Dask's dashboard names, spread evenly.

Beam's own translation puts 128 elements into one task, which is all of a job's shards on one
worker, and calls every task alike. A job's elements need nothing of Beam's: so they go to Dask as
they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from apache_beam.options.pipeline_options import PipelineOptions
from distributed import Client, Future, KilledWorker, Security, rpc

from latent_store.console import told_late
from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.object_stores import in_time
from pipelines.jobs.beam_options import dask_options
from pipelines.jobs.worker_versions import BEAM, AlikeWork, versions

WORKER_SECONDS = 30
"""How long the first worker may take to come, where a cluster grows with its tasks."""
LOST_SECONDS = 120
"""How long one may take to come when all were lost: a queue has its turn, a machine is started."""
_LATE_SECONDS = 10
"""After which a wait for it is told, and workers are looked for where no result comes."""


def run_on_dask(
    name: str, shards: Sequence[int], work: Callable[[int], Any], options: PipelineOptions
) -> Iterator[Any]:
    """Runs `work` on each shard number, one task a shard; yields results as they come.

    Raises:
        JobFailedError: Workers were lost at the same shard again and again, or all and none came,
            one has other versions than the launcher, or the scheduler ended.
    """
    # A scheduler that ends is told below, in one line; and what a cluster does at length, nowhere.
    for logger in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    # Whose keys another run has used would be given that one's results.
    run = f"{name}-{uuid4().hex[:8]}"
    with _client(options) as client:
        keys = [(run, shard) for shard in shards]
        futures = client.map(AlikeWork(work), list(shards), key=keys, pure=False)
        try:
            yield from _results(client, futures)
        except KilledWorker as error:
            raise JobFailedError(
                f"{name} of shard {_shard_of(error.task)} ended {error.allowed_failures + 1} "
                "workers of Dask, the last "
                f"{error.last_worker.address}: out of memory, most likely; give workers more, or "
                "make shards smaller in a new store"
            ) from error


def _results(client: Client, futures: Sequence[Future]) -> Iterator[Any]:
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()
    for each in futures:
        each.add_done_callback(done.put)
    for number in range(len(futures)):
        there = f"{number} of {len(futures)} shards were done"
        # Who waits for results alone is not told that nobody is there to make one.
        while (future := _taken(done)) is None:
            _require_workers(client, there)
        if future.cancelled():
            # Nobody here cancels one: the client does, when it hears of no scheduler.
            raise JobFailedError(
                f"the scheduler of Dask ended when {there}; start it and run the same command "
                "again to go on"
            )
        yield future.result()


def _taken(done: queue.SimpleQueue[Future]) -> Future | None:
    try:
        return done.get(timeout=_LATE_SECONDS)
    except queue.Empty:
        return None


def _require_workers(client: Client, there: str) -> None:
    """Waits for the scheduler where it does not answer, and for a worker where all were lost.

    Raises:
        JobFailedError: Nothing came.
    """
    silent = f"the scheduler of Dask does not answer when {there}"
    lost = f"the cluster of Dask has no workers any more when {there}"
    again = "run the same command again to go on"
    try:
        with told_late(f"{silent}; this waits for it", _LATE_SECONDS):
            workers = in_time(client.nthreads, LOST_SECONDS)
    except TimeoutError as error:
        raise JobFailedError(
            f"{silent}, for {LOST_SECONDS} seconds; mend it and {again}"
        ) from error
    except OSError:
        return  # A scheduler that ended has its own line.
    if workers:
        return
    print(f"{lost}; this waits for one", file=sys.stderr)
    try:
        client.wait_for_workers(1, timeout=LOST_SECONDS)
    except TimeoutError as error:
        raise JobFailedError(
            f"{lost}, and none came within {LOST_SECONDS} seconds; start one and {again}"
        ) from error


def require_cluster(options: PipelineOptions, folders: Sequence[str], timeout: float) -> None:
    """Refuses a cluster that does not answer, or whose workers could not do a job's work.

    Args:
        options: Of the job.
        folders: Local ones that workers need.
        timeout: Seconds that the scheduler may take to answer.

    Raises:
        LatentStoreError: With the remedy.
    """
    given = dask_options(options)
    if "npartitions" in given or "partition_size" in given:
        raise LatentStoreError(
            "--dask_npartitions and --dask_partition_size cannot be: a task is one shard; leave "
            "them out"
        )
    address = given.get("address") or dask.config.get("scheduler-address", None)
    file = given.get("scheduler_file")
    if not (address or file):
        return  # A cluster of this machine, made for the job.
    place = _scheduler_in(file) if file else str(address)
    if not place:
        # Dask waits for it without an end.
        raise LatentStoreError(
            f"--dask_scheduler_file {file} is no file that a scheduler of Dask wrote; start one "
            "with dask scheduler --scheduler-file FILE, or give --dask_client_address"
        )
    try:
        # A client waits for what accepts it and says nothing, at its end once more.
        in_time(lambda: asyncio.run(_ask_who(place)), timeout)
        client = Client(**{**given, "timeout": timeout})
    except Exception as error:
        # Of what another service answers, Dask makes any error.
        raise LatentStoreError(
            f"no scheduler of Dask answers at {place} within "
            f"{timeout:.0f} seconds ({_first_line(error)}); start one with dask scheduler, or "
            "give --dask_client_address another address"
        ) from error
    with client:
        # An adaptive cluster may have none until there is something to do.
        _task = client.submit(int, pure=False)
        lacking = f"the scheduler of Dask at {place} has no workers"
        try:
            with told_late(f"{lacking} yet; this waits for one", _LATE_SECONDS):
                client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError as error:
            raise LatentStoreError(
                f"{lacking}, and none came within {WORKER_SECONDS} seconds; start one with dask "
                "worker, or let the cluster keep one (minimum=1)"
            ) from error
        with told_late(f"workers of Dask at {place} do not answer yet; this waits", _LATE_SECONDS):
            _require_alike(client, folders)


def _require_alike(client: Client, folders: Sequence[str]) -> None:
    try:
        there = client.run(_describe, folders)
    except ModuleNotFoundError as error:
        raise LatentStoreError(
            f"workers of Dask lack what this job sends them ({error}); install "
            "'latent-store[beam,xarray]' there, in this version"
        ) from error
    here = _describe(folders)
    for worker, found in there.items():
        for what, value in here.items():
            if found[what] != value:
                raise LatentStoreError(
                    f"Dask's worker {worker} has {what} {found[what]}, this process {value}; let "
                    "both have the same"
                )


def _describe(folders: Sequence[str]) -> dict[str, str]:
    """Returns what workers must have in common with the launcher."""
    there = {f"at {path}": "a folder" if Path(path).is_dir() else "none" for path in folders}
    return versions(BEAM) | there


def _scheduler_in(file: str) -> str:
    """Returns the address in a scheduler's file; nothing where it is none."""
    try:
        return str(json.loads(Path(file).read_bytes())["address"] or "")
    except (OSError, ValueError, LookupError, TypeError):
        return ""


async def _ask_who(address: str) -> None:
    how = Security().get_connection_args("client")
    async with rpc(address, connection_args=how) as scheduler:
        await scheduler.identity()


@contextlib.contextmanager
def _client(options: PipelineOptions) -> Iterator[Client]:
    given = dask_options(options)
    if not (given.get("address") or given.get("scheduler_file")) and not dask.config.get(
        "scheduler-address", None
    ):
        # torch has threads of its own.
        given |= {"n_workers": os.cpu_count(), "threads_per_worker": 1, "dashboard_address": ":0"}
        given |= {"silence_logs": logging.ERROR}
    with Client(**given) as client:
        yield client


def _shard_of(key: Any) -> Any:
    return key[1] if isinstance(key, tuple) else key


def _first_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "what answers there speaks otherwise"  # Its first bytes were read as a length.
    return (str(error).splitlines() or [type(error).__name__])[0]
