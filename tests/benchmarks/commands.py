"""The project's own commands, in processes of their own, and what they cost."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from latent_store.errors import JobFailedError
from tests.benchmarks.environment import one_thread

MODULES = {
    "latent-store": "latent_store.cli",
    "generate-scenes": "pipelines.generate_scenes",
    "train-teacher": "pipelines.train_teacher",
    "train-codec": "pipelines.train_codec",
    "encode-to-store": "pipelines.encode",
    "channel-frequency": "pipelines.frequency",
    "reorder-latents": "pipelines.reorder",
    "train-from-store": "training.train",
    "evaluate-from-store": "training.evaluate",
    "segment": "training.segment",
    "detect": "training.detect",
    "latency": "training.latency",
}


@dataclass(frozen=True)
class Spent:
    """What a process and its children took: seconds by the clock, and of processors."""

    text: str
    wall: float
    cpu: float


def run(command: str, **flags: object) -> Spent:
    """Runs a command and waits for it.

    Args:
        command: Its name, and flags if one likes.
        flags: Further flags, by name; a tuple is several values of one.

    Raises:
        JobFailedError: It ended with another status than 0; with the end of what it said.
    """
    name, *words = command.split()
    for flag, value in flags.items():
        words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return run_python("-m", MODULES[name], *words)


def run_python(*words: str) -> Spent:
    """Runs the interpreter with arguments, with one thread; else like `run`."""
    start, before = time.perf_counter(), _children()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=one_thread()
    )
    if done.returncode:
        raise JobFailedError(
            f"{' '.join(words)} ended with status {done.returncode}: {done.stderr[-500:]}"
        )
    return Spent(done.stdout, time.perf_counter() - start, _children() - before)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
