"""A grid's workspace: a store, folders, a share of the machine, and commands that use them.

Training, counting, reordering and evaluating are commands of their own processes, so that several
runs share a machine without sharing threads, and a run that dies takes nothing with it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import latent_store
from latent_store import LatentStore
from latent_store.errors import JobFailedError, public_text
from training.experiments.grid import Grid

_MODULES = {
    "train-from-store": "training.train",
    "evaluate-from-store": "training.evaluate",
    "channel-frequency": "pipelines.frequency",
    "reorder-latents": "pipelines.reorder",
}
"""Run as modules, commands need not be installed."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The place of one grid's runs.

    Attributes:
        url: Of the store with the grid's codecs and a teacher.
        work: Folder of checkpoints and logs; may be lost, at the price of running again.
        records: Folder of finished runs' records.
        threads: Of each command.
        device: Of training and evaluation.
    """

    grid: Grid
    url: str
    work: Path
    records: Path
    threads: int
    device: str
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    @cached_property
    def store(self) -> LatentStore:
        """The opened store."""
        return latent_store.open(self.url)

    def run(self, name: str, command: str, codec: str, split: str, **flags: Any) -> None:
        """Runs a command on the store for the run `name`; its output goes to that run's log.

        Args:
            name: The folder below `work`.
            command: Its name, or its module.
            codec: Short name.
            split: The split that it reads.
            **flags: Its further flags.

        Raises:
            JobFailedError: It failed; with its last line.
        """
        data = {"store": self.url, "dataset": self.grid.dataset, "split": split}
        words = _words({**data, "codec": self.grid.codecs[codec], **flags})
        call = [sys.executable, "-m", _MODULES.get(command, command), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        path = self.work / name / "log.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            log.write(f"$ {command} {public_text(' '.join(words))}\n".encode())
            log.flush()
            with subprocess.Popen(call, stdout=log, stderr=log, env=environment) as process:
                self._running.add(process)
                if self._stopped.is_set():
                    process.terminate()
                status = process.wait()
            self._running.discard(process)
        if status:
            last = path.read_text(errors="replace").strip().splitlines()[-1]
            raise JobFailedError(
                f"{command} of {name} ended with status {status}: {last} (all of it: {path}); run "
                "the same command again to go on"
            )

    def stop(self) -> None:
        """Tells the commands that run, and those that would start, to end; training saves first."""
        self._stopped.set()
        for process in list(self._running):
            process.terminate()

    def facts(self) -> dict[str, Any]:
        """Returns the facts of a record that tell the machine."""
        cuda = self.device != "cpu" and torch.cuda.is_available()
        return {
            "device": torch.cuda.get_device_name() if cuda else f"CPU, {self.threads} threads",
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        }


def _words(flags: Mapping[str, Any]) -> list[str]:
    """Returns flags as a shell would get them; True and False are --flag and --no-flag."""
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name}", *map(str, values)]
    return words
