"""The rankings of a grid: derived once, kept as records, written from these into any store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latent_store import Ranking
from latent_store.catalogue.rankings import list_rankings, write_ranking
from latent_store.format.schema import DEFAULT_CUTS
from training.experiments.configs import RunConfigs
from training.experiments.grid import GridRun, RankingRule
from training.experiments.records import read_ranking_record, write_ranking_record
from training.experiments.workspace import Workspace


class GridRankings:
    """One grid's rankings in one store."""

    def __init__(self, workspace: Workspace, configs: RunConfigs) -> None:
        self._workspace = workspace
        self._grid = workspace.grid
        self._store = workspace.store
        self._configs = configs
        self._locks = {
            (run.codec, self._grid.ranking_id(rule, run.seed)): threading.Lock()
            for run in self._grid.runs()
            if (rule := run.method.ranking)
        }

    def recorded(self) -> list[Ranking]:
        """Returns every ranking of the grid that has a record."""
        found = {}
        for run in self._grid.runs():
            rule = run.method.ranking
            ranking = None if rule is None else self._read(run, rule)
            if ranking is not None:
                found[ranking.codec_id, ranking.ranking_id] = ranking
        return list(found.values())

    def provide(
        self, run: GridRun, rule: RankingRule, checkpoint_of: Callable[[GridRun, str], Path]
    ) -> str:
        """Sees to it that a run's ranking, and its copies of both splits, are in the store.

        Args:
            run: The run; its codec and seed are the ranking's.
            rule: Of the ranking.
            checkpoint_of: Returns the checkpoint of a method with a run's codec and seed.

        Returns:
            The ranking's name in the store.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        ranking_id = self._grid.ranking_id(rule, run.seed)
        codec_id = self._grid.codecs[run.codec]
        with self._locks[run.codec, ranking_id]:
            recorded = self._read(run, rule)
            if recorded is None:
                self.derive(run, rule, checkpoint_of(run, rule.gate) if rule.gate else None)
            elif ranking_id not in list_rankings(self._store.location, codec_id):
                write_ranking(self._store.location, recorded)
            for split in (self._grid.split, self._grid.val_split):
                command = (run.name, "reorder-latents", run.codec, split)
                self._workspace.run(*command, ranking=ranking_id)
        return ranking_id

    def derive(self, run: GridRun, rule: RankingRule, checkpoint: Path | None) -> None:
        """Counts a gate's choices, or sorts channels by a statistic, and records the ranking.

        Raises:
            JobFailedError: The command failed; names the log.
        """
        ranking_id = self._grid.ranking_id(rule, run.seed)
        flags: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint}
        self._workspace.run(
            run.name,
            "channel-frequency",
            run.codec,
            self._grid.split,
            ranking=ranking_id,
            method=rule.method,
            keep=self._cuts(rule),
            overwrite=True,
            **flags,
        )
        ranking = self._store.ranking(self._grid.codecs[run.codec], ranking_id)
        config = self._configs.of_ranking(run, rule)
        write_ranking_record(self._workspace.records, _record_name(run, rule), config, ranking)

    def _read(self, run: GridRun, rule: RankingRule) -> Ranking | None:
        config = self._configs.of_ranking(run, rule)
        return read_ranking_record(self._workspace.records, _record_name(run, rule), config)

    def _cuts(self, rule: RankingRule) -> list[int]:
        keeps = {m.flags.get("keep") for m in self._grid.methods.values() if m.ranking == rule}
        return sorted({*DEFAULT_CUTS, *(k for k in keeps if k)})


def _record_name(run: GridRun, rule: RankingRule) -> str:
    return f"ranking-{rule.name}_{run.codec}" + (f"_s{run.seed}" if rule.gate else "")
