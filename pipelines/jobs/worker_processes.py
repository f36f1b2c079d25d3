"""Jobs in processes of this machine. One that is lost ends no job: its shard is made again.

Beam's own processes are waited for without an end when one is killed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from latent_store.errors import JobFailedError

MOST_LOSSES = 3
"""Losses of processes in a row, without a shard between them, after which a job gives up."""
_LOG = logging.getLogger(__name__)


def usable_cores() -> int:
    """Returns the cores that this process may use: of its affinity, within a container's share."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    # Where there is no limit it says "max", which is no number.
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


def run_in_processes(
    name: str, shards: Sequence[int], work: Callable[[int], Any], workers: int
) -> Iterator[Any]:
    """Runs `work` on each shard number, in `workers` processes; yields results as they come.

    Raises:
        JobFailedError: Processes were killed again and again.
    """
    left, losses = dict.fromkeys(shards), 0
    while left:
        try:
            for shard, result in _run_in_pool(list(left), work, workers):
                del left[shard]
                losses = 0
                yield result
        except BrokenProcessPool as error:
            losses += 1
            if losses == MOST_LOSSES:
                raise JobFailedError(
                    f"{name}: a worker process was killed {losses} times in a row, at one of "
                    f"{len(left)} shards ({', '.join(map(str, [*left][:4]))}, ...): out of memory, "
                    "most likely; give fewer --direct_num_workers and run the same command again"
                ) from error
            _LOG.warning("a worker process was killed; the shards it had are made again")


def _run_in_pool(
    shards: Sequence[int], work: Callable[[int], Any], workers: int
) -> Iterator[tuple[int, Any]]:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(shards)),
        # Not forked: torch and readers in Rust have threads.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_launcher,
    )
    # What is started now inherits it: Ctrl-C is the launcher's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        futures = {pool.submit(work, shard): shard for shard in shards}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        # Nobody waits for shards that are under way: what counts of them is nothing or the whole.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown()


def _end_with_launcher() -> None:
    """Ends this process when the launcher has ended, which a killed one tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
