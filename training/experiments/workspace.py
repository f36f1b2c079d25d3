"""A grid's workspace: a store, folders, a share of the machine, and commands that use them.

Training, counting, reordering and evaluating are commands of their own processes, so that several
runs share a machine without sharing threads, and a run that dies takes nothing with it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latent_store.errors import JobFailedError
from training.experiments.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The place of one grid's runs.

    Attributes:
        store: URL of the store with the grid's codecs and a teacher.
        work: Folder of checkpoints and logs; may be lost, at the price of running again.
        records: Folder of finished runs' records.
        threads: Of each command.
        device: Of training and evaluation.
    """

    grid: Grid
    store: str
    work: Path
    records: Path
    threads: int
    device: str

    def run(self, folder: Path, command: str, codec: str, split: str, **flags: Any) -> None:
        """Runs one of the project's commands on the store; its output goes to `log.txt`.

        Args:
            folder: Of the log.
            command: An installed one, or the module of one that is not.
            codec: Short name.
            split: The split that it reads.
            **flags: Its further flags.

        Raises:
            JobFailedError: It failed; with its last line.
        """
        data = {"store": self.store, "dataset": self.grid.dataset, "split": split}
        words = _words({**data, "codec": self.grid.codecs[codec], **flags})
        installed = "." not in command
        python = Path(sys.executable)
        call = [str(python.with_name(command))] if installed else [str(python), "-m", command]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            log.write(f"$ {command} {' '.join(words)}\n".encode())
            log.flush()
            done = subprocess.run(
                [*call, *words], stdout=log, stderr=log, env=environment, check=False
            )
        if done.returncode:
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            raise JobFailedError(
                f"{command} of {folder.name} ended with status {done.returncode}: {lines[-1]} (all "
                f"of it: {folder / 'log.txt'}); run the same command again to go on"
            )

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
        elif isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words
