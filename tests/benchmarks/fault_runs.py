"""Encodes that are disturbed: commands as processes of their own, and what they leave behind."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from latent_store.codec import demo
from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE
from latent_store.storage import lease as leases
from pipelines import encode
from tests.benchmarks.fault_server import BUCKET, FaultyStore
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import SPLIT, make_inputs

PICTURES = 4
"""Of 64 x 64, one a shard."""
WORKERS = ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2")
STALE_SECONDS = leases.STALE_SECONDS
FAKE_CLOCK = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""A library that shifts a process's clock; without it Python's `time.time` is shifted."""
_SHIFTED = """
import sys
from latent_store.storage import lease as leases
from pipelines import encode
leases.RENEW_SECONDS /= {scale}
leases.STALE_SECONDS /= {scale}
raise SystemExit(encode.main(sys.argv[1:]))
"""
_POLL_SECONDS = 0.005


class HangError(Exception):
    """A command that did not end in time."""


@dataclass
class Run:
    """A command under way.

    Attributes:
        log: File of what it prints.
        seconds: That it may take.
    """

    process: BaseProcess
    log: Path
    seconds: float

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Signals the process, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.exitcode is None:
                os.kill(self.pid, number)

    def children(self) -> list[psutil.Process]:
        """Returns the processes that work for it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.pid).children()
            return [child for child in started if "spawn_main" in " ".join(_words_of(child))]
        return []

    def wait(self) -> int:
        """Returns its status.

        Raises:
            HangError: It has none in time; it and its children are ended.
        """
        self.process.join(self.seconds)
        if self.process.exitcode is None:
            self.end()
            raise HangError(f"no end within {self.seconds:.0f} s; it said: {self.last_line}")
        return self.process.exitcode

    def end(self) -> None:
        """Ends it, and what it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.join()

    @property
    def last_line(self) -> str:
        """Returns the last that it said."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "nothing")


def _words_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


@dataclass(kw_only=True)
class Ground:
    """What trials share: inputs, an undisturbed store, a process to fork commands from.

    Attributes:
        root: A folder for all of it.
        store: The object store that can fail; None where packages for it are missing.
        timeout: Seconds that a command may take.
        scale: By how much a lease is shorter than as it ships, and outages with it.
    """

    root: Path
    store: FaultyStore | None
    timeout: float
    scale: float
    _count: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # The command loads the second itself, in each process anew.
        self._context.set_forkserver_preload([__name__, "pipelines.jobs.encode_request"])
        self.inputs = self.root / "inputs"
        make_inputs(self.inputs, DEFAULT_ARCHITECTURE, PICTURES)
        self.codec = self.inputs / "demo.pth.tar"
        (shipped,) = Path(demo.__path__[0]).glob("*.pth.tar")
        shutil.copyfile(shipped, self.codec)

    @property
    def stale_seconds(self) -> float:
        """After which a lease of a trial is nobody's."""
        return STALE_SECONDS / self.scale

    @cached_property
    def calm(self) -> dict[str, bytes]:
        """What an undisturbed command makes."""
        url = self.root / "calm.zarr"
        run = self.start(str(url))
        if run.wait():
            raise AssertionError(f"an undisturbed encode failed: {run.last_line}")
        return contents(url)

    @cached_property
    def requests(self) -> int:
        """How many requests an undisturbed command makes."""
        assert self.store is not None
        self.store.reset(0)
        run = self.start(f"s3://{BUCKET}/calm.zarr")
        if run.wait():
            raise AssertionError(f"an undisturbed encode failed: {run.last_line}")
        return self.store.requests

    def start(self, url: str, *more: str, codec: Path | None = None, shift: float = 0.0) -> Run:
        """Starts `encode-to-store` on the pictures.

        Args:
            url: Of the store.
            more: Flags.
            codec: Checkpoint; None for the copy of the demo codec that all trials share.
            shift: Seconds that the command's clock is off.
        """
        words = ["--store", url, *SPLIT, "--data_root", str(self.inputs / "data")]
        words += ["--codec_checkpoint", str(codec or self.codec)]
        words += ["--samples_per_shard", "1", "--threads", "1", "--psnr", "none", *more]
        log = self.root / f"run-{next(self._count)}.log"
        environment = self.store.environment if self.store is not None else {}
        args = (words, log, environment, self.scale, shift)
        process = self._context.Process(target=_command, args=args)
        process.start()
        return Run(process, log, self.timeout)


def _command(
    words: Sequence[str], log: Path, environment: Mapping[str, str], scale: float, shift: float
) -> None:
    """Runs the command as a process of its own does, with a lease of shorter duration."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    if shift and FAKE_CLOCK is not None:
        os.environ.update(LD_PRELOAD=str(FAKE_CLOCK), FAKETIME=f"{shift:+.0f}s")
        os.environ["DONT_FAKE_MONOTONIC"] = "1"
        code = _SHIFTED.format(scale=scale)
        os.execv(sys.executable, [sys.executable, "-c", code, *words])
    leases.RENEW_SECONDS /= scale
    leases.STALE_SECONDS /= scale
    if shift:
        now = time.time
        time.time = lambda: now() + shift
    try:
        status = encode.main(list(words))
    except BaseException:  # noqa: BLE001  (as the interpreter does)
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass(kw_only=True)
class Trial:
    """One store, and what befalls it.

    Attributes:
        rng: Every choice of the trial is drawn from it.
        folder: On this machine, for the store, unless it is in the object store.
        away: Whether it is there.
        statuses: How its commands ended.
    """

    ground: Ground
    rng: random.Random
    folder: Path
    away: bool = False
    statuses: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The store's address."""
        return f"s3://{BUCKET}/{self.folder.name}/s.zarr" if self.away else str(self.path)

    @property
    def path(self) -> Path:
        """The store's folder, if it is on this machine."""
        return self.folder / "s.zarr"

    @property
    def store(self) -> FaultyStore:
        """The object store."""
        assert self.ground.store is not None
        return self.ground.store

    def go_away(self) -> None:
        """Lets the trial's store be in the object store."""
        assert self.ground.requests  # Counting them uses the store.
        self.away = True
        self.store.reset(self.rng.randrange(2**31))

    def may_go_away(self) -> None:
        """Does so in half of the trials, where there is an object store."""
        if self.rng.random() < 0.5 and self.ground.store is not None:
            self.go_away()

    def start(self, *more: str, **options: object) -> Run:
        """Starts the command on the trial's store."""
        return self.ground.start(self.url, *more, **options)  # type: ignore[arg-type]

    def some_time(self) -> Callable[[Run], None]:
        """Draws a moment of a run, and returns what waits for it, or for the run's end.

        Moments are told by how many files of the undisturbed store are there, or by how many of its
        requests were made, so that each part of a run is met as often as it is long in these.
        """
        share, lag = self.rng.random(), self.rng.uniform(0, 0.05)
        if self.away:
            wanted = 1 + int(share * self.ground.requests)
            reached = lambda: self.store.requests >= wanted  # noqa: E731
        else:
            files = int(share * len(self.ground.calm))
            reached = lambda: _count_files(self.path) >= files  # noqa: E731

        def wait(run: Run) -> None:
            until = time.monotonic() + run.seconds
            while not reached() and run.process.is_alive() and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            time.sleep(lag)

        return wait

    def told(self, run: Run, what: str) -> str:
        """Waits for a command, and tells how it ended."""
        status = run.wait()
        self.statuses.append(status)
        return f"{what}: status {status}" + (f" ({run.last_line[-200:]})" if status > 0 else "")

    def let_lease_go_stale(self) -> None:
        """Waits as long as a command says that one has to, whose lease another has not released."""
        # Object stores tell ages in whole seconds.
        time.sleep(self.ground.stale_seconds + 2 * self.away)

    def contents(self) -> dict[str, bytes]:
        """Returns what is in the store."""
        if self.away:
            folder = self.ground.root / "downloaded"
            try:
                return contents(self.store.download(f"{self.folder.name}/s.zarr", folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return contents(self.path)


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
