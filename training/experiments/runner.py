"""Makes the runs of a grid: the commands a user would type, one folder a run, a record at the end.

Training, counting, reordering and evaluating are commands of their own processes, so that several
runs share a machine without sharing threads, and a run that dies takes nothing with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import latent_store
from latent_store import LatentStore, Ranking
from latent_store.catalogue.rankings import list_rankings, write_ranking
from latent_store.errors import JobFailedError, MissingComponentError
from latent_store.format.schema import DEFAULT_CUTS
from latent_store.storage.location import write_atomically
from training.evaluation.points import Point, read_point
from training.experiments.grid import FREQUENCY, Grid, RankingRule, Run
from training.experiments.records import (
    Record,
    read_ranking_record,
    read_record,
    read_timings,
    write_ranking_record,
    write_record,
    write_timings,
)
from training.experiments.timings import Timings

LAST = "last.pt"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things lie and how much of the machine a run gets.

    Attributes:
        work: Folder of checkpoints and logs; may be lost, at the price of running again.
        records: Folder of finished runs' records.
        threads: Of each command.
        device: Of training and evaluation.
    """

    store: str
    work: Path
    records: Path
    threads: int
    device: str


class Workshop:
    """Makes one grid's runs on one store.

    Raises:
        LatentStoreError: The store lacks a split, a codec, latents or the teacher.
    """

    def __init__(self, grid: Grid, place: Place) -> None:
        self.grid = grid
        self.place = place
        self.store: LatentStore = latent_store.open(place.store)
        self._require_codecs()
        self._locks: dict[tuple[str, ...], threading.Lock] = {}
        self._guard = threading.Lock()

    # -- what a run is ------------------------------------------------------------------------

    @cached_property
    def teacher_id(self) -> str:
        """The store's only teacher: every network starts from it.

        Raises:
            MissingComponentError: There is none, or a choice.
        """
        known = self.store.teachers()
        if len(known) != 1:
            names = ", ".join(known) or "none"
            raise MissingComponentError(
                f"{self.store.url} keeps the teachers {names}; the networks of a grid start from "
                "one: encode with one --teacher_checkpoint"
            )
        return known[0]

    def config(self, run: Run) -> dict[str, Any]:
        """Returns everything that a run's numbers depend on."""
        grid, rule = self.grid, self.grid.rule_of(run)
        flags = {} if run.method.teacher else {**grid.train, **run.method.flags}
        return {
            "method": run.method.name,
            "seed": run.seed,
            "flags": flags,
            "ranking": None if rule is None else self.ranking_config(run, rule),
            "init_from": run.method.init_from,
            **self._data(run.codec),
        }

    def ranking_config(self, run: Run, rule: RankingRule) -> dict[str, Any]:
        """Returns everything that a ranking depends on."""
        config = {"ranking": rule.name, "method": rule.method, **self._data(run.codec)}
        if rule.gate is not None:
            gate = self.grid.methods[rule.gate]
            config["gate"] = self.config(Run(method=gate, codec=run.codec, seed=run.seed))
        return config

    def finished(self, run: Run) -> Record | None:
        """Returns a run's record, or None if it is still to be made."""
        return read_record(self.place.records, run.name, self.config(run))

    # -- making it ----------------------------------------------------------------------------

    def make(self, run: Run) -> Record:
        """Trains and evaluates one network, and derives the rankings that its gate gives.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        start = time.monotonic()
        folder = self.place.work / run.name
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = self._teacher(folder) if run.method.teacher else self._train(run, folder)
        trained = time.monotonic()
        points = self._evaluate(run, folder, checkpoint)
        for rule in self.grid.rankings.values():
            if rule.gate == run.method.name:
                self._derive(run, rule, checkpoint)
        record = Record(
            name=run.name,
            config=self.config(run),
            points=tuple(points),
            facts={
                "train_seconds": round(trained - start, 1),
                "seconds": round(time.monotonic() - start, 1),
                **_machine(self.place),
            },
        )
        write_record(self.place.records, record)
        return record

    def _train(self, run: Run, folder: Path) -> Path:
        grid, flags = self.grid, {**self.grid.train, **run.method.flags}
        ranking_id = grid.ranking_id(run)
        if ranking_id is not None:
            self._provide_ranking(run)
            flags["mask"] = ranking_id
        if run.method.init_from is not None:
            flags["init_from"] = str(self._network_of(run, run.method.init_from))
        self._command(
            folder,
            "train-from-store",
            {
                "store": self.place.store,
                "dataset": grid.dataset,
                "split": grid.split,
                "val_split": "none",
                "codec": grid.codecs[run.codec],
                "teacher": self.teacher_id,
                "seed": run.seed,
                "label": run.method.name,
                "device": self.place.device,
                "output": folder,
                "resume": True,
                **flags,
            },
        )
        return folder / LAST

    def _network_of(self, run: Run, method: str) -> Path:
        """Returns another method's checkpoint, same codec and seed; trained again if it is lost."""
        return self._checkpoint(
            Run(method=self.grid.methods[method], codec=run.codec, seed=run.seed)
        )

    def _checkpoint(self, run: Run) -> Path:
        """Returns a run's checkpoint; trained again if it is lost."""
        path = self.place.work / run.name / LAST
        with self._lock(run.name):
            if path.exists():
                return path
            return (
                self._teacher(path.parent) if run.method.teacher else self._train(run, path.parent)
            )

    def _teacher(self, folder: Path) -> Path:
        path = folder / LAST
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.store.teacher_checkpoint(self.teacher_id))
        return path

    def _evaluate(self, run: Run, folder: Path, checkpoint: Path) -> list[Point]:
        output = folder / "evaluation"
        self._command(
            folder,
            "evaluate-from-store",
            {
                "store": self.place.store,
                "dataset": self.grid.dataset,
                "split": self.grid.val_split,
                "checkpoint": checkpoint,
                "codec": self.grid.codecs[run.codec],
                "decode": "sample",
                "pictures": 0,
                "device": self.place.device,
                "output": output,
            },
        )
        keys = sorted(path.stem for path in (output / "points").glob("*.json"))
        points = [point for key in keys if (point := read_point(output / "points", key))]
        several = len(points) > 1
        return [
            replace(p, label=f"{run.method.name}-{p.keep}") if several else p
            for p in sorted(points, key=lambda p: p.keep or 0)
        ]

    # -- latency ------------------------------------------------------------------------------

    def timings(self) -> Timings | None:
        """Returns what was timed before, or None."""
        return read_timings(self.place.records, self._timings_config())

    def measure_timings(self) -> Timings:
        """Times the grid's timed networks, which must have been made, with the whole machine.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        folder = self.place.work / "latency"
        self._command(
            folder,
            [sys.executable, "-m", "training.latency"],
            {
                "store": self.place.store,
                "dataset": self.grid.dataset,
                "split": self.grid.val_split,
                "codec": self.grid.codecs[self.grid.middle],
                "checkpoint": [self._checkpoint(run) for run in self.grid.timed_runs()],
                "threads": os.cpu_count() or 1,
                "device": self.place.device,
                "output": folder,
            },
        )
        content = json.loads((folder / "latency.json").read_text())
        # The store's address is this machine's.
        setting = {name: value for name, value in content["setting"].items() if name != "store"}
        timings = Timings(setting=setting, latencies=content["latencies"])
        write_timings(self.place.records, self._timings_config(), timings)
        return timings

    def _timings_config(self) -> dict[str, Any]:
        return {run.name: self.config(run) for run in self.grid.timed_runs()}

    # -- rankings -----------------------------------------------------------------------------

    def rankings(self) -> list[Ranking]:
        """Returns every ranking of the grid that has a record."""
        found = {}
        for run in self.grid.runs():
            rule = self.grid.rule_of(run)
            ranking = None if rule is None else self._recorded(run, rule)
            if ranking is not None:
                found[ranking.codec_id, ranking.ranking_id] = ranking
        return list(found.values())

    def _provide_ranking(self, run: Run) -> None:
        """Sees to it that a run's ranking, and its copies of both splits, are in the store."""
        rule, ranking_id = self.grid.rule_of(run), self.grid.ranking_id(run)
        codec_id = self.grid.codecs[run.codec]
        with self._lock(codec_id, str(ranking_id)):
            if self._recorded(run, rule) is None:
                self._derive(run, rule, self._network_of(run, rule.gate) if rule.gate else None)
            elif ranking_id not in list_rankings(self.store.location, codec_id):
                write_ranking(self.store.location, self._recorded(run, rule))
            for split in (self.grid.split, self.grid.val_split):
                self._command(
                    self.place.work / run.name,
                    "reorder-latents",
                    {
                        "store": self.place.store,
                        "dataset": self.grid.dataset,
                        "split": split,
                        "codec": codec_id,
                        "ranking": ranking_id,
                    },
                )

    def _derive(self, run: Run, rule: RankingRule, checkpoint: Path | None) -> None:
        ranking_id = f"{self.grid.name}-{rule.name}" + (f"-s{run.seed}" if rule.gate else "")
        codec_id = self.grid.codecs[run.codec]
        given = {"checkpoint": checkpoint} if rule.method == FREQUENCY else {}
        self._command(
            self.place.work / run.name,
            "channel-frequency",
            {
                "store": self.place.store,
                "dataset": self.grid.dataset,
                "split": self.grid.split,
                "codec": codec_id,
                "ranking": ranking_id,
                "method": rule.method,
                "keep": self._cuts(rule),
                "overwrite": True,
                **given,
            },
        )
        ranking = self.store.ranking(codec_id, ranking_id)
        config = self.ranking_config(run, rule)
        write_ranking_record(self.place.records, _ranking_name(run, rule), config, ranking)

    def _recorded(self, run: Run, rule: RankingRule) -> Ranking | None:
        config = self.ranking_config(run, rule)
        return read_ranking_record(self.place.records, _ranking_name(run, rule), config)

    def _cuts(self, rule: RankingRule) -> list[int]:
        keeps = {m.flags.get("keep") for m in self.grid.methods.values() if m.ranking == rule.name}
        return sorted({*DEFAULT_CUTS, *(k for k in keeps if k)})

    def _lock(self, *name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    # -- the store ----------------------------------------------------------------------------

    def _require_codecs(self) -> None:
        for codec_id in self.grid.codecs.values():
            self.store.codec(codec_id)
            for split in (self.grid.split, self.grid.val_split):
                self.store[f"{self.grid.dataset}/{split}"].latents(codec_id)

    def _data(self, codec: str) -> dict[str, Any]:
        spec = self.store.codec(self.grid.codecs[codec])
        return {
            "codec": codec,
            "codec_weights": spec.weights_sha256,
            "teacher": self.teacher_id,
            **self._samples,
        }

    @cached_property
    def _samples(self) -> dict[str, str]:
        """Which images: their number and the digest of their ids, split by split."""
        found = {}
        for role, name in (("train", self.grid.split), ("val", self.grid.val_split)):
            ids = [s.sample_id for s in self.store[f"{self.grid.dataset}/{name}"].plan.samples]
            digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
            found[f"{role}_samples"] = f"{len(ids)} of {self.grid.dataset}/{name}, ids {digest}"
        return found

    # -- commands -----------------------------------------------------------------------------

    def _command(self, folder: Path, name: str | list[str], flags: Mapping[str, Any]) -> None:
        """Runs one of the project's commands; its output goes to `log.txt` of the run.

        Args:
            folder: Of the log.
            name: Of an installed command, or the words that call a module.
            flags: Its flags.

        Raises:
            JobFailedError: It failed; with its last line.
        """
        folder.mkdir(parents=True, exist_ok=True)
        installed = isinstance(name, str)
        call = [str(Path(sys.executable).with_name(name))] if installed else name
        name = name if installed else " ".join(name[1:])
        words = [*call, *_words(flags)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.place.threads)}
        with (folder / "log.txt").open("ab") as log:
            log.write(f"$ {name} {' '.join(words[len(call) :])}\n".encode())
            log.flush()
            done = subprocess.run(words, stdout=log, stderr=log, env=environment, check=False)
        if done.returncode:
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            raise JobFailedError(
                f"{name} of {folder.name} ended with status {done.returncode}: {lines[-1]} (all of "
                f"it: {folder / 'log.txt'}); run the same command again to go on"
            )


def _ranking_name(run: Run, rule: RankingRule) -> str:
    return f"ranking-{rule.name}_{run.codec}" + (f"_s{run.seed}" if rule.gate else "")


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


def _machine(place: Place) -> dict[str, Any]:
    cuda = place.device != "cpu" and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {place.threads} threads",
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
