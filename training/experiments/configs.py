"""Configurations: everything that the numbers of a run or a ranking depend on, for its record."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from latent_store.errors import MissingComponentError
from training.experiments.grid import GridRun, RankingRule
from training.experiments.workspace import Workspace


class RunConfigs:
    """The configurations of a grid's runs on one store, as plain types.

    Raises:
        LatentStoreError: The store lacks a split, a codec or latents.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._grid = workspace.grid
        self._store = workspace.store
        self._splits = {"train": self._grid.split, "val": self._grid.val_split}
        for codec_id in self._grid.codecs.values():
            self._store.codec(codec_id)
            for split in self._splits.values():
                self._store[f"{self._grid.dataset}/{split}"].latents(codec_id)

    def of_run(self, run: GridRun) -> dict[str, Any]:
        """Returns the configuration of a run."""
        method = run.method
        return {
            "method": method.name,
            "seed": run.seed,
            "flags": {} if method.teacher else {**self._grid.train, **method.flags},
            "ranking": method.ranking and self.of_ranking(run, method.ranking),
            "init_from": method.init_from,
            **self._data(run.codec),
        }

    def of_ranking(self, run: GridRun, rule: RankingRule) -> dict[str, Any]:
        """Returns the configuration of the ranking by a rule, with a run's codec and seed."""
        config = {"ranking": rule.name, "method": rule.method, **self._data(run.codec)}
        if rule.gate is not None:
            gate = self._grid.methods[rule.gate]
            config["gate"] = self.of_run(GridRun(method=gate, codec=run.codec, seed=run.seed))
        return config

    @cached_property
    def teacher_id(self) -> str:
        """The store's only teacher: every network starts from it.

        Raises:
            MissingComponentError: There is none, or a choice.
        """
        known = self._store.teachers()
        if len(known) != 1:
            names = ", ".join(known) or "none"
            raise MissingComponentError(
                f"{self._store.url} keeps the teachers {names}; the networks of a grid start from "
                "one: encode with one --teacher_checkpoint"
            )
        return known[0]

    def _data(self, codec: str) -> dict[str, Any]:
        weights = self._store.codec(self._grid.codecs[codec]).weights_sha256
        data = {"codec": codec, "codec_weights": weights, "teacher": self.teacher_id}
        return {**data, **self._samples}

    @cached_property
    def _samples(self) -> dict[str, str]:
        """The images, split by split: their number and the digest of their ids."""
        found = {}
        for role, name in self._splits.items():
            split = f"{self._grid.dataset}/{name}"
            ids = [s.sample_id for s in self._store[split].plan.samples]
            digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
            found[f"{role}_samples"] = f"{len(ids)} of {split}, ids {digest}"
        return found
