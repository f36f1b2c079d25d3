"""The runner: makes the runs of a grid with the commands a user would type, one folder a run.

doit and luigi, tried out, keep the order of needs too, but they stop at no `--minutes`, report a
failed run as a traceback, and would replace no more than `run_all`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from latent_store.console import progress
from latent_store.storage.local_files import write_atomically
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
from training.selection.cut_norm import share_statistics
from training.tasks.registry import find_task
from training.trainer.checkpoints import load_network, save_checkpoint
from training.trainer.run_folder import LOG_FILE


def read_evaluation(output: Path) -> list[Point]:
    """Returns the points of the latest evaluation into a folder, which keeps earlier ones' too."""
    entries = json.loads((output / "results.json").read_text())["points"]
    found = [read_point(output / "points", entry["key"]) for entry in entries]
    return [point for point in found if point is not None]


class Runner:
    """Makes one grid's runs on one store.

    Raises:
        LatentStoreError: The store lacks a split; see `RunConfigs`.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.grid, self._workspace = workspace.grid, workspace
        self._configs = RunConfigs(workspace.grid, workspace.store)
        self._rankings = GridRankings(workspace, self._configs)
        self._locks = {run.name: threading.Lock() for run in self.grid.declared}

    def finished(self, run: GridRun) -> Record | None:
        """Returns a run's record, or None if it is still to be made."""
        return read_record(self._workspace.records, run.name, self._configs.of_run(run))

    def run_all(
        self, wanted: Sequence[GridRun], *, jobs: int, minutes: float | None = None
    ) -> list[Record]:
        """Makes every wanted run that has no record, in their order, each after what it needs.

        Args:
            wanted: With all that they need.
            jobs: Runs at a time.
            minutes: After so long those under way are told to save and end.

        Returns:
            The records of all wanted runs that are finished now.

        Raises:
            JobFailedError: A run failed; those under way were finished and recorded first.
        """
        end = None if minutes is None else time.monotonic() + 60 * minutes
        done = {run.name: record for run in wanted if (record := self.finished(run))}
        waiting = {run.name: run for run in wanted if run.name not in done}
        active: dict[Future[Record], str] = {}
        failures: list[BaseException] = []
        with (
            progress(total=len(wanted), initial=len(done), unit="run", desc=self.grid.name) as bar,
            ThreadPoolExecutor(max_workers=jobs) as pool,
        ):
            while True:
                left = None if end is None else end - time.monotonic()
                over = left is not None and left <= 0
                ready = [name for name, run in waiting.items() if done.keys() >= set(run.needs)]
                for name in ready[: 0 if failures or over else jobs - len(active)]:
                    active[pool.submit(self.make, waiting.pop(name))] = name
                if not active:
                    break
                if over:
                    self.stop()
                for future in wait(active, None if over else left, FIRST_COMPLETED).done:
                    name = active.pop(future)
                    if error := future.exception():
                        failures += [] if over else [error]  # told to end, it is no failure
                        continue
                    done[name] = future.result()
                    bar.update()
                    bar.set_postfix_str(name)
        if failures:
            raise failures[0]
        return [done[run.name] for run in wanted if run.name in done]

    def stop(self) -> None:
        """Tells the runs under way to save and end."""
        self._workspace.stop()

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
                self._rankings.derive(run, rule, self._checkpoint_of)
        record = Record(
            name=run.name,
            config=self._configs.of_run(run),
            points=tuple(points),
            curve=self._curve(run),
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
        teacher_id = self._configs.teacher_id(method.task, run.seed)
        if method.teacher:
            teacher = self._workspace.store.teacher_checkpoint(teacher_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, teacher)
            return path
        held: dict[str, Any] = {"val_split": "none"}
        if self.grid.hold_out:
            held = {"hold_out": self.grid.hold_out}
        if method.one_set is not None:
            loaded = load_network(self._checkpoint_of(run, method.one_set))
            share_statistics(loaded.network)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, loaded.network, meta=loaded.meta, codec_bytes=loaded.codec_bytes)
            return path
        flags = {
            **held,
            "teacher": teacher_id,
            "seed": run.seed,
            "label": method.name,
            "device": self._workspace.device,
            "output": path.parent,
            "resume": True,
            **self.grid.flags(run),
        }
        if (rule := method.ranking) is not None:
            flags["mask"] = self._rankings.provide(run, rule, self._checkpoint_of)
            if "keep" in flags:
                flags["keep"] = self._rankings.keep(run, rule, flags["keep"])
        if method.init_from is not None:
            flags["init_from"] = self._checkpoint_of(run, method.init_from)
        self._workspace.run(run.name, "train-from-store", run.codec, self.grid.split, **flags)
        return path

    def _curve(self, run: GridRun) -> tuple[tuple[int, float], ...]:
        """Returns the scores on the held-out samples as a run's log has them."""
        log, score = self._path(run).with_name(LOG_FILE), find_task(run.method.task).metric.score
        lines = log.read_text().splitlines() if log.exists() else ()
        found = [record for line in lines if (record := json.loads(line))["kind"] == "validation"]
        return tuple((record["step"], record[score]) for record in found)

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
            **({"stop_confidence": run.method.stops} if run.method.stops else {}),
        )
        points = read_evaluation(output)
        if len(points) > 1:
            ends = [p.keep if p.stop is None else f"stop-{p.stop:g}" for p in points]
            names = [f"{run.method.name}-{end}" for end in ends]
            points = [replace(p, label=n) for p, n in zip(points, names, strict=True)]
        return sorted(points, key=lambda p: (p.stop or 0, p.keep or 0))

    def _checkpoint_of(self, run: GridRun, method: str) -> Path:
        """Returns another method's checkpoint, same codec and seed; made again if it is lost."""
        other = GridRun(method=self.grid.methods[method], codec=run.codec, seed=run.seed)
        return self._checkpoint(other)

    def _checkpoint(self, run: GridRun) -> Path:
        with self._locks[run.name]:
            return self._path(run) if self._path(run).exists() else self._train(run)

    def _path(self, run: GridRun) -> Path:
        return self._workspace.work / run.name / "last.pt"
