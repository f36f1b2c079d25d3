"""The rankings of a grid: derived once, kept as records, written from these into any store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latent_store.catalogue.rankings import list_rankings, write_ranking
from latent_store.errors import MissingComponentError, RankingError
from latent_store.format.schema import DEFAULT_CUTS
from latent_store.tools.shared_orders import share_order
from training.experiments.configs import RunConfigs
from training.experiments.grid import GridRun, RankingRule
from training.experiments.records import RANKING, read_ranking_record, write_ranking_record
from training.experiments.workspace import Workspace

CheckpointOf = Callable[[GridRun, str], Path]
"""Returns the checkpoint of a method with a run's codec and seed."""


class GridRankings:
    """One grid's rankings in one store."""

    def __init__(self, workspace: Workspace, configs: RunConfigs) -> None:
        self._workspace, self._configs = workspace, configs
        self._grid, self._store = workspace.grid, workspace.store
        self._locks = {
            (run.codec, self._grid.ranking_id(rule, run.seed)): threading.Lock()
            for run in self._grid.declared
            for rule in self._grid.rankings.values()
        }

    def provide(self, run: GridRun, rule: RankingRule, checkpoint_of: CheckpointOf) -> str:
        """Sees to it that a run's ranking, and its copies of both splits, are in the store.

        Args:
            run: The run; its codec and seed are the ranking's.
            rule: Of the ranking.
            checkpoint_of: Where the networks are whose gates are counted.

        Returns:
            The ranking's name in the store.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        ranking_id = self._write(run, rule, checkpoint_of)
        with self._lock(run, rule):
            for split in (self._grid.split, self._grid.val_split):
                flags: dict[str, Any] = {"ranking": ranking_id}
                if self._is_stale(split, *self._ids(run, rule)):
                    flags["overwrite"] = True
                self._workspace.run(run.name, "reorder-latents", run.codec, split, **flags)
        return ranking_id

    def derive(self, run: GridRun, rule: RankingRule, checkpoint_of: CheckpointOf) -> None:
        """Derives a ranking, by its rule, and records it.

        Raises:
            JobFailedError: A command failed; names the log.
        """
        codec_id, ranking_id = self._ids(run, rule)
        if rule.of:
            own = [self._write(run, part, checkpoint_of) for part in rule.of]
            rankings = [self._store.ranking(codec_id, name) for name in own]
            write_ranking(self._store.location, share_order(rankings, ranking_id), overwrite=True)
        else:
            gate = {"checkpoint": checkpoint_of(run, rule.gate)} if rule.gate else {}
            self._workspace.run(
                run.name,
                "channel-frequency",
                run.codec,
                self._grid.split,
                ranking=ranking_id,
                method=rule.method,
                keep=self._cuts(rule),
                overwrite=True,
                **gate,
            )
        config = self._configs.of_ranking(run, rule)
        ranking = self._store.ranking(codec_id, ranking_id)
        write_ranking_record(self._workspace.records, record_name(run, rule), config, ranking)

    def keep(self, run: GridRun, rule: RankingRule, keep: int) -> int:
        """Returns how many channels hold the first `keep` of a ranking, or of each that it merges.

        The ranking must have been provided.
        """
        parts = [self._store.ranking(*self._ids(run, part)) for part in rule.of]
        return len(set().union(*(part.channels(keep) for part in parts))) if parts else keep

    def _write(self, run: GridRun, rule: RankingRule, checkpoint_of: CheckpointOf) -> str:
        """Returns the name of a ranking, which is in the store now, from its record or derived."""
        codec_id, ranking_id = self._ids(run, rule)
        with self._lock(run, rule):
            config = self._configs.of_ranking(run, rule)
            recorded = read_ranking_record(self._workspace.records, record_name(run, rule), config)
            if recorded is None:
                self.derive(run, rule, checkpoint_of)
            elif ranking_id not in list_rankings(self._store.location, codec_id):
                write_ranking(self._store.location, recorded)
        return ranking_id

    def _is_stale(self, split: str, codec_id: str, ranking_id: str) -> bool:
        """Returns whether a split has a copy of an older ranking of that name."""
        try:
            self._store[f"{self._grid.dataset}/{split}"].ranked(ranking_id, codec_id)
        except RankingError:
            return True
        except MissingComponentError:
            pass
        return False

    def _ids(self, run: GridRun, rule: RankingRule) -> tuple[str, str]:
        return self._grid.codecs[run.codec], self._grid.ranking_id(rule, run.seed)

    def _lock(self, run: GridRun, rule: RankingRule) -> threading.Lock:
        return self._locks[run.codec, self._grid.ranking_id(rule, run.seed)]

    def _cuts(self, rule: RankingRule) -> list[int]:
        """Returns where streams of a ranking can be cut: all that the grid's methods may need."""
        methods = self._grid.methods.values()
        wanted = [m for m in methods if (r := m.ranking) and (r == rule or rule in r.of)]
        cuts = [m.flags.get("cuts") or [m.flags.get("keep")] for m in wanted]
        return sorted({*DEFAULT_CUTS, *(n for few in cuts for n in few if n)})


def record_name(run: GridRun, rule: RankingRule) -> str:
    """Returns the name of a ranking's record."""
    return f"{RANKING}-{rule.name}_{run.codec}" + (f"_s{run.seed}" if rule.gates else "")
