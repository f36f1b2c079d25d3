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
    method = run.method
    stops = {"stops": list(method.stops)} if method.stops else {}
    one_set = {} if method.one_set is None else {"one_set": method.one_set}
    return {
        **stops,
        **one_set,
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


def _seed(meta: Mapping[str, Any]) -> int | None:
    """Returns the seed that a checkpoint was trained with, where it says."""
    seed = (meta.get("train") or {}).get("seed")
    return seed if isinstance(seed, int) else None


class RunConfigs:
    """The configurations of a grid's runs on one store, as plain types.

    Raises:
        LatentStoreError: The store lacks a split; later, a codec or its teacher.
    """

    def __init__(self, grid: Grid, store: LatentStore) -> None:
        self._grid, self._store = grid, store
        splits = {"train": grid.split, "val": grid.val_split}
        self._samples = {f"{role}_samples": self._images(split) for role, split in splits.items()}
        self._teachers = functools.cache(self._teachers_of)

    def of_run(self, run: GridRun) -> dict[str, Any]:
        """Returns the configuration of a run."""
        rule = run.method.ranking
        ranking = rule and self.of_ranking(run, rule)
        config = {**grid_config(self._grid, run), "ranking": ranking}
        return {**config, **self._data(run), **self._teacher(run)}

    def of_ranking(self, run: GridRun, rule: RankingRule) -> dict[str, Any]:
        """Returns the configuration of the ranking by a rule, with a run's codec and seed."""
        config = {"ranking": rule.name, "method": rule.method, **self._data(run)}
        if rule.gate is not None:
            gate = self._grid.methods[rule.gate]
            config["gate"] = self.of_run(GridRun(method=gate, codec=run.codec, seed=run.seed))
        if rule.of:
            config["of"] = [self.of_ranking(run, part) for part in rule.of]
        return config

    def teacher_id(self, task: str, seed: int) -> str:
        """Returns the teacher that networks of a task and seed start from.

        Raises:
            MissingComponentError: There is none, or a choice.
            LatentStoreError: It was trained on what the grid holds out.
        """
        own = self._teachers(task)
        if self._grid.teacher_per_seed:
            own = {name: meta for name, meta in own.items() if _seed(meta) == seed}
        if len(own) != 1:
            known = ", ".join(self._store.teachers()) or "none"
            which, other = "", ""
            if self._grid.teacher_per_seed:
                which, other = f" with --seed {seed}", ", or give --seeds without it"
            raise MissingComponentError(
                f"{self._store.url} keeps the teachers {known}; the networks of this grid start "
                f"from one for {task}{which}: encode with one such --teacher_checkpoint{other}"
            )
        if self._grid.hold_out:
            require_held_out(*next(iter(own.items())), self._grid.hold_out)
        return next(iter(own))

    def _teachers_of(self, task: str) -> dict[str, Mapping[str, Any]]:
        """Returns what the checkpoints of the store's teachers of a task say of them."""
        prefix = find_task(task).teacher_prefix
        return {
            name: load_network(self._store.teacher_checkpoint(name), kind="teacher").meta
            for name in self._store.teachers()
            if name.startswith(prefix)
        }

    def _data(self, run: GridRun) -> dict[str, Any]:
        weights = self._store.codec(self._grid.codecs[run.codec]).weights_sha256
        return {"codec": run.codec, "codec_weights": weights, **self._samples}

    def _teacher(self, run: GridRun) -> dict[str, str]:
        """Returns the entry of a run's teacher.

        It has none where each seed has its own and the store lacks this one: runs of such a seed
        were made elsewhere, or wait.
        """
        try:
            return {"teacher": self.teacher_id(run.method.task, run.seed)}
        except MissingComponentError:
            if self._grid.teacher_per_seed:
                return {}
            raise

    def _images(self, split: str) -> str:
        """Returns the number of a split's images and the digest of their ids."""
        name = f"{self._grid.dataset}/{split}"
        ids = self._store[name].plan.samples.column("sample_id").to_pylist()
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        return f"{len(ids)} of {name}, ids {digest}"
