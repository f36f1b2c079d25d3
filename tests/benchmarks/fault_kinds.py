"""Kinds of disturbance: each runs a command once, disturbs it, and puts things right again.

What follows, running the same command again and comparing, is the same for all of them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import fault_server
from tests.benchmarks.fault_runs import WORKERS, Trial
from tests.latent_store.codec.made_codec import make_model, save

Disturb = Callable[[Trial], str]
"""Runs the command once and disturbs it; returns in a few words what was done."""
SHORT_OUTAGE, LONG_OUTAGE = 25.0, 120.0
"""Seconds, less and more than a lease lasts; a trial's are as much shorter as its lease is."""
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """One kind of disturbance.

    Attributes:
        disturb: Does it.
        away: Whether it needs the object store; None where it is in one half of the trials there.
    """

    disturb: Disturb
    away: bool | None = False


def kill_dask_worker(trial: Trial) -> str:
    """Kills one of two workers of Dask, which a nanny replaces."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=2, **options) as cluster:
        wait = trial.some_time()
        address = cluster.scheduler_address
        run = trial.start("--runner", "DaskRunner", "--dask_client_address", address)
        wait(run)
        pids = sorted(nanny.pid for nanny in cluster.workers.values())
        with contextlib.suppress(ProcessLookupError):
            os.kill(trial.rng.choice(pids), signal.SIGKILL)
        return trial.told(run, "worker of Dask killed")


def kill_child(trial: Trial) -> str:
    """Kills a process of `multi_processing`."""
    wait = trial.some_time()
    run = trial.start(*WORKERS)
    children = run.children()
    while len(children) < 2 and run.process.is_alive():
        time.sleep(0.01)
        children = run.children()
    wait(run)
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(trial.rng.choice(children).pid, signal.SIGKILL)
    return trial.told(run, f"one of {len(children)} children killed")


def kill_launcher(trial: Trial) -> str:
    """Kills the command itself, with or without children, here or in front of an object store."""
    more = WORKERS if trial.rng.random() < 0.3 else ()
    trial.may_go_away()
    wait = trial.some_time()
    run = trial.start(*more)
    wait(run)
    run.signal(signal.SIGKILL)
    return trial.told(run, "killed")


def suspend(trial: Trial) -> str:
    """Stops the command until its lease is stale, lets another do its work, and wakes it."""
    trial.may_go_away()
    wait, other = trial.some_time(), trial.rng.random() < 0.7
    run = trial.start()
    wait(run)
    run.signal(signal.SIGSTOP)
    try:
        trial.let_lease_go_stale()
        told = trial.told(trial.start(), "stopped past its lease, another") if other else "stopped"
    finally:
        run.signal(signal.SIGCONT)
    return trial.told(run, f"{told}; woken")


def short_outage(trial: Trial) -> str:
    """Takes the object store away for less time than a lease lasts."""
    return _outage(trial, SHORT_OUTAGE / trial.ground.scale)


def long_outage(trial: Trial) -> str:
    """Takes the object store away for longer than a lease lasts."""
    return _outage(trial, LONG_OUTAGE / trial.ground.scale)


def _outage(trial: Trial, seconds: float) -> str:
    trial.go_away()
    number = 1 + int(trial.rng.random() * trial.ground.requests)
    state = trial.rng.choice((fault_server.REFUSED, fault_server.SILENT))
    over = threading.Event()

    def end() -> None:
        trial.store.state = fault_server.PASS
        over.set()

    def begin() -> None:
        trial.store.state = state
        threading.Timer(seconds, end).start()

    trial.store.at(number, begin)
    run = trial.start()
    try:
        told = trial.told(run, f"{state} for {seconds:.1f} s from request {number}")
    finally:
        if trial.store.state != fault_server.PASS:
            over.wait(seconds)
    return told


def fill_disk(trial: Trial) -> str:
    """Lets the disk be full at some point: a small file system, or a limit on what files hold."""
    if _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(trial.folder)):
        pages = sorted(1 + len(data) // 4096 for data in trial.ground.calm.values())
        # The codec is larger than all the rest: most disks that are drawn hold it, and some more.
        least = trial.rng.choice((8, pages[-1], pages[-1]))
        size = 4096 * trial.rng.randint(least, sum(pages))
        _mount("-o", f"remount,size={size}", str(trial.folder))
        told = trial.told(trial.start(), f"a disk of {size >> 10} KiB")
        _mount("-o", "remount,size=64m", str(trial.folder))
        return told
    largest = max(len(data) for data in trial.ground.calm.values())
    size = trial.rng.randint(100, largest)
    wait = trial.some_time()
    run = trial.start()
    wait(run)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return trial.told(run, f"no mounts here: files of {size} bytes at most")


def forbid_writing(trial: Trial) -> str:
    """Lets the store be read only from some point on."""
    trial.may_go_away()
    wait = trial.some_time()
    if trial.away:
        run = trial.start()
        wait(run)
        trial.store.state = fault_server.READ_ONLY
        told = trial.told(run, "writing denied")
        trial.store.state = fault_server.PASS
        return told
    run = trial.start()
    wait(run)
    with _read_only(trial.folder) as how:
        return trial.told(run, how)


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[str]:
    """Lets what lies in a folder be read alone, also for whoever is in it already."""
    if _mount("--bind", str(folder), str(folder)):
        try:
            _mount("-o", "remount,ro,bind", str(folder))
            yield "mounted read only"
        finally:
            # Whoever just ended may be in it a moment longer.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield "folders read only"
    finally:
        for path in folders:
            path.chmod(0o755)


def swap_codec(trial: Trial) -> str:
    """Puts another codec where the command's lay, as on a machine that has another file there."""
    path = trial.folder / "codec.pth.tar"
    shutil.copyfile(trial.ground.codec, path)
    wait = trial.some_time()
    run = trial.start(*WORKERS, codec=path)
    # The launcher's own file is the one that counts.
    while not any(trial.path.glob("cityscapes/*/latents/*/zarr.json")) and run.process.is_alive():
        time.sleep(0.01)
    wait(run)
    path.write_bytes(save(make_model(8, 24).state_dict()))
    return trial.told(run, "another codec's file for workers")


def shift_clock(trial: Trial) -> str:
    """Starts the command twice, the second time with a clock an hour off."""
    trial.may_go_away()
    shift = trial.rng.choice((-HOUR, HOUR))
    wait = trial.some_time()
    run = trial.start()
    wait(run)
    told = trial.told(trial.start(shift=shift), f"clock {shift:+.0f} s, another")
    return trial.told(run, f"{told}; first")


def start_twice(trial: Trial) -> str:
    """Starts the command twice at once."""
    trial.may_go_away()
    run = trial.start()
    time.sleep(trial.rng.uniform(0, 0.5))
    told = trial.told(trial.start(), "twice; second")
    return trial.told(run, f"{told}; first")


def fail_requests(trial: Trial) -> str:
    """Lets a tenth of all requests fail."""
    trial.go_away()
    trial.store.share, trial.store.failure = 0.1, trial.rng.choice(fault_server.FAILURES)
    told = trial.told(trial.start(), f"10 % of requests: {trial.store.failure}")
    trial.store.share = 0.0
    return told


KINDS = {
    "dask-worker": FaultKind(disturb=kill_dask_worker),
    "child": FaultKind(disturb=kill_child),
    "launcher": FaultKind(disturb=kill_launcher, away=None),
    "suspended": FaultKind(disturb=suspend, away=None),
    "outage-25": FaultKind(disturb=short_outage, away=True),
    "outage-120": FaultKind(disturb=long_outage, away=True),
    "disk-full": FaultKind(disturb=fill_disk),
    "read-only": FaultKind(disturb=forbid_writing, away=None),
    "codec-file": FaultKind(disturb=swap_codec),
    "clock": FaultKind(disturb=shift_clock, away=None),
    "two-launchers": FaultKind(disturb=start_twice, away=None),
    "requests": FaultKind(disturb=fail_requests, away=True),
}


def _mount(*words: str) -> bool:
    return not subprocess.run(["mount", *words], capture_output=True, check=False).returncode
