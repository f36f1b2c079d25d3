"""Configurations: everything that the numbers of a run or a ranking depend on, for its record."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from latent_store import LatentStore
from latent_store.errors import LatentStoreError, MissingComponentError
from training.experiments.grid import Grid, GridRun, RankingRule
from training.tasks.registry import find_task
from training.trainer.checkpoints import load_network


def grid_config(grid: Grid, run: GridRun) -> dict[str, Any]:
    """Returns what the grid alone says of a run, as plain types."""
    stops = {"stops": list(run.method.stops)} if run.method.stops else {}
    return {
        **stops,
        "method": run.method.name,
        "seed": run.seed,
        "flags": grid.flags(run),
        "init_from": run.method.init_from,
        "codec": run.codec,
        "hold_out": list(grid.hold_out) or None,
    }


def require_held_out(teacher_id: str, meta: Mapping[str, Any], hold_out: Sequence[str]) -> None:
    """Refuses a teacher that saw samples which settings are chosen on.

    Raises:
        LatentStoreError: It did, or its checkpoint does not say.
    """
    held = tuple((meta.get("train") or {}).get("hold_out") or ())
    if seen := [name for name in hold_out if not name.startswith(held)]:
        raise LatentStoreError(
            f"the grid holds out {', '.join(hold_out)}, and teacher {teacher_id} was trained with "
            f"--hold_out {' '.join(held) or 'none'}, so with {', '.join(seen)}: train it with the "
            "grid's and encode its features anew"
        )


class RunConfigs:
    """The configurations of a grid's runs on one store, as plain types.

    Raises:
        LatentStoreError: The store lacks a split; later, a codec or its teacher.
    """

    def __init__(self, grid: Grid, store: LatentStore) -> None:
        self._grid, self._store = grid, store
        splits = {"train": grid.split, "val": grid.val_split}
        self._samples = {f"{role}_samples": self._images(split) for role, split in splits.items()}
        self.teacher_id = functools.cache(self._teacher_id)

    def of_run(self, run: GridRun) -> dict[str, Any]:
        """Returns the configuration of a run."""
        rule = run.method.ranking
        ranking = rule and self.of_ranking(run, rule)
        return {**grid_config(self._grid, run), "ranking": ranking, **self._data(run)}

    def of_ranking(self, run: GridRun, rule: RankingRule) -> dict[str, Any]:
        """Returns the configuration of the ranking by a rule, with a run's codec and seed."""
        config = {"ranking": rule.name, "method": rule.method, **self._data(run)}
        if rule.gate is not None:
            gate = self._grid.methods[rule.gate]
            config["gate"] = self.of_run(GridRun(method=gate, codec=run.codec, seed=run.seed))
        if rule.of:
            config["of"] = [self.of_ranking(run, part) for part in rule.of]
        return config

    def _teacher_id(self, task: str) -> str:
        """Returns the store's only teacher of a task: every network of it starts from it.

        Raises:
            MissingComponentError: There is none, or a choice.
            LatentStoreError: It was trained on what the grid holds out.
        """
        known, prefix = self._store.teachers(), find_task(task).teacher_prefix
        own = [teacher for teacher in known if teacher.startswith(prefix)]
        if len(own) != 1:
            raise MissingComponentError(
                f"{self._store.url} keeps the teachers {', '.join(known) or 'none'}; the networks "
                f"of a grid start from one for {task}: encode with one --teacher_checkpoint"
            )
        if self._grid.hold_out:
            teacher = load_network(self._store.teacher_checkpoint(own[0]), kind="teacher")
            require_held_out(own[0], teacher.meta, self._grid.hold_out)
        return own[0]

    def _data(self, run: GridRun) -> dict[str, Any]:
        weights = self._store.codec(self._grid.codecs[run.codec]).weights_sha256
        teacher = self.teacher_id(run.method.task)
        return {"codec": run.codec, "codec_weights": weights, "teacher": teacher, **self._samples}

    def _images(self, split: str) -> str:
        """Returns the number of a split's images and the digest of their ids."""
        name = f"{self._grid.dataset}/{split}"
        ids = [sample.sample_id for sample in self._store[name].plan.samples]
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        return f"{len(ids)} of {name}, ids {digest}"
