"""The runner: makes the runs of a grid with the commands a user would type, one folder a run.

Order and number of runs at a time are the standard library's (`graphlib`, `concurrent.futures`).
doit and luigi, tried out, keep what is needed too, but they stop at no `--minutes`, report a failed
run as a traceback, and would replace no more than `run_all`.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from latent_store.console import progress
from latent_store.storage.location import write_atomically
from training.evaluation.points import Point, read_point
from training.experiments.configs import RunConfigs
from training.experiments.grid import GridRun
from training.experiments.rankings import GridRankings
from training.experiments.records import (
    Record,
    Timings,
    read_record,
    read_timings,
    write_record,
    write_timings,
)
from training.experiments.workspace import Workspace


class Runner:
    """Makes one grid's runs on one store.

    Attributes:
        rankings: The grid's.

    Raises:
        LatentStoreError: The store lacks a split, a codec or latents.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.grid = workspace.grid
        self._workspace = workspace
        self._configs = RunConfigs(workspace)
        self.rankings = GridRankings(workspace, self._configs)
        self._locks = {run.name: threading.Lock() for run in self.grid.runs()}

    def finished(self, run: GridRun) -> Record | None:
        """Returns a run's record, or None if it is still to be made."""
        return read_record(self._workspace.records, run.name, self._configs.of_run(run))

    def run_all(
        self, wanted: Sequence[GridRun], *, jobs: int, minutes: float | None = None
    ) -> list[Record]:
        """Makes every wanted run that has no record, each when what it needs is finished.

        Args:
            wanted: With all that they need; those that others wait for start first.
            jobs: Runs at a time.
            minutes: No run starts after so long.

        Returns:
            The records of all wanted runs that are finished now.

        Raises:
            JobFailedError: A run failed; those under way were finished and recorded first.
        """
        done = {run.name: record for run in wanted if (record := self.finished(run))}
        waiting = {run.name: run for run in wanted if run.name not in done}
        needs = {n: [need for need in run.needs if need in waiting] for n, run in waiting.items()}
        needed = {need for needs_of_run in needs.values() for need in needs_of_run}
        order = TopologicalSorter(needs)
        order.prepare()
        end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        ready: list[str] = []
        active: dict[Future[Record], str] = {}
        failures: list[BaseException] = []
        with (
            progress(total=len(wanted), initial=len(done), unit="run", desc=self.grid.name) as bar,
            ThreadPoolExecutor(max_workers=jobs) as pool,
        ):
            while order.is_active():
                ready = sorted([*ready, *order.get_ready()], key=lambda name: name not in needed)
                while ready and len(active) < jobs and not failures and time.monotonic() <= end:
                    name = ready.pop(0)
                    active[pool.submit(self.make, waiting[name])] = name
                if not active:
                    break
                for future in wait(active, return_when=FIRST_COMPLETED).done:
                    name = active.pop(future)
                    if error := future.exception():
                        failures.append(error)
                        continue
                    done[name] = future.result()
                    order.done(name)
                    bar.update()
                    bar.set_postfix_str(name)
        if failures:
            raise failures[0]
        return [done[run.name] for run in wanted if run.name in done]

    def make(self, run: GridRun) -> Record:
        """Trains and evaluates one network, and derives the rankings that its gate gives.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        start = time.monotonic()
        checkpoint = self._train(run)
        trained = time.monotonic()
        points = self._evaluate(run, checkpoint)
        for rule in self.grid.rankings.values():
            if rule.gate == run.method.name:
                self.rankings.derive(run, rule, checkpoint)
        record = Record(
            name=run.name,
            config=self._configs.of_run(run),
            points=tuple(points),
            facts={
                "train_seconds": round(trained - start, 1),
                "seconds": round(time.monotonic() - start, 1),
                **self._workspace.facts(),
            },
        )
        write_record(self._workspace.records, record)
        return record

    def timings(self) -> Timings:
        """Returns the latencies of the grid's timed networks, which must have been made.

        Without a record they are measured, with the whole machine.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        runs = self.grid.timed_runs()
        config = {run.name: self._configs.of_run(run) for run in runs}
        timings = read_timings(self._workspace.records, config)
        if timings is not None:
            return timings
        folder = self._workspace.work / "latency"
        self._workspace.run(
            folder.name,
            "training.latency",
            self.grid.middle,
            self.grid.val_split,
            checkpoint=[self._checkpoint(run) for run in runs],
            threads=os.cpu_count() or 1,
            device=self._workspace.device,
            output=folder,
        )
        content = json.loads((folder / "latency.json").read_text())
        # The store's address is this machine's.
        setting = {name: value for name, value in content["setting"].items() if name != "store"}
        timings = Timings(setting=setting, latencies=content["latencies"])
        write_timings(self._workspace.records, config, timings)
        return timings

    def _train(self, run: GridRun) -> Path:
        """Trains a network, or writes the store's teacher; returns the checkpoint."""
        path, method = self._path(run), run.method
        if method.teacher:
            teacher = self._workspace.store.teacher_checkpoint(self._configs.teacher_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, teacher)
            return path
        given: dict[str, Any] = {}
        if method.ranking is not None:
            given["mask"] = self.rankings.provide(run, method.ranking, self._checkpoint_of)
        if method.init_from is not None:
            given["init_from"] = self._checkpoint_of(run, method.init_from)
        flags = {
            "val_split": "none",
            "teacher": self._configs.teacher_id,
            "seed": run.seed,
            "label": method.name,
            "device": self._workspace.device,
            "output": path.parent,
            "resume": True,
            **self.grid.train,
            **method.flags,
            **given,
        }
        self._workspace.run(run.name, "train-from-store", run.codec, self.grid.split, **flags)
        return path

    def _evaluate(self, run: GridRun, checkpoint: Path) -> list[Point]:
        output = self._path(run).parent / "evaluation"
        self._workspace.run(
            run.name,
            "evaluate-from-store",
            run.codec,
            self.grid.val_split,
            checkpoint=checkpoint,
            decode="sample",
            pictures=0,
            device=self._workspace.device,
            output=output,
        )
        keys = sorted(path.stem for path in (output / "points").glob("*.json"))
        points = [point for key in keys if (point := read_point(output / "points", key))]
        if len(points) > 1:
            points = [replace(p, label=f"{run.method.name}-{p.keep}") for p in points]
        return sorted(points, key=lambda p: p.keep or 0)

    def _checkpoint_of(self, run: GridRun, method: str) -> Path:
        """Returns another method's checkpoint, same codec and seed; made again if it is lost."""
        other = GridRun(method=self.grid.methods[method], codec=run.codec, seed=run.seed)
        return self._checkpoint(other)

    def _checkpoint(self, run: GridRun) -> Path:
        with self._locks[run.name]:
            return self._path(run) if self._path(run).exists() else self._train(run)

    def _path(self, run: GridRun) -> Path:
        return self._workspace.work / run.name / "last.pt"
