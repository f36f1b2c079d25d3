"""Runs work ahead of its consumer, in threads or in spawned processes, and keeps its order."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing import resource_tracker, util
from typing import Any

from latent_store.errors import JobFailedError, LatentStoreError

KINDS = ("thread", "process")
OUR_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What a whole process group is sent: it asks the training loop to save, and no worker."""


class Prefetcher:
    """A pool of workers that prepare what is needed next.

    Threads share one cache and cost nothing to start. Processes are for codecs and machines where
    Python's lock is the limit; they are spawned, because forked children of a process that uses
    Zarr's event loop, or a Rust reader, deadlock.

    Args:
        work: Called as `work(*item)`; for processes it must be picklable, and is sent once.
        workers: How many; 0 works in the caller's thread, when an item is asked for.
        kind: "thread" or "process".
    """

    def __init__(self, work: Callable[..., Any], *, workers: int, kind: str = "thread") -> None:
        if workers < 0 or kind not in KINDS:
            raise LatentStoreError(
                f"`workers=` must be 0 or more and `worker_kind=` {' or '.join(KINDS)}, got "
                f"{workers} and {kind!r}"
            )
        self._work, self._workers, self._kind = work, workers, kind
        self._pool: Executor | None = None

    def map(self, items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yields the work's results in the items' order; items may be endless.

        At most `workers + 1` results are under way or waiting. What the work raises is raised
        here, when its turn comes.

        Raises:
            JobFailedError: A worker process was killed.
        """
        if not self._workers:
            for item in items:
                yield self._work(*item)
            return
        pool, call = self._start()
        pending: deque[Future[Any]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(call, *item))
                if len(pending) > self._workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenExecutor as error:
            raise JobFailedError(
                "a worker that loads data was killed, as systems do when memory runs out; lower "
                "`workers=` or `cache_mb=`, or take `worker_kind=thread`, and go "
                "on with `resume=`"
            ) from error
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Stops the workers; what they are doing is finished first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _start(self) -> tuple[Executor, Callable[..., Any]]:
        if self._kind == "thread":
            self._pool = self._pool or ThreadPoolExecutor(self._workers, "prefetch")
            return self._pool, self._work
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_take_work,
                initargs=(self._work,),
            )
            _launch(self._pool, self._workers)
        return self._pool, _call_work


def _launch(pool: Executor, workers: int) -> None:
    """Starts a pool's processes deaf to `OUR_SIGNALS`, which come before they can ignore them."""
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
    try:
        for _ in range(workers):  # a process starts with each, until all are there
            pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_process_work: Callable[..., Any] | None = None


def _take_work(work: Callable[..., Any]) -> None:
    global _process_work  # a worker process has one work for its whole life
    _process_work = work
    for number in OUR_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _take_one_thread()


def _take_one_thread() -> None:
    """Leaves the other cores to the other workers, also where torch is loaded later, or never."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _call_work(*item: Any) -> Any:
    assert _process_work is not None  # the pool's initializer ran
    return _process_work(*item)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    with contextlib.suppress(Exception):
        util._exit_function()  # type: ignore[attr-defined]  # removes its folder of sockets
    os._exit(1)
