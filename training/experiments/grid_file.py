"""Grid files: a TOML file read into a grid, or refused with the entry that contradicts it."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from latent_store.catalogue.rankings import METHODS as RANKING_METHODS
from latent_store.errors import LatentStoreError
from latent_store.tools.shared_orders import METHOD as SHARED
from training.experiments.grid import FREQUENCY, MEASURES, Claim, Grid, GridMethod, RankingRule
from training.tasks.registry import TASKS
from training.trainer.job import CONFIGS

GRIDS = Path(__file__).parent / "grids"
_OWN_FLAGS = (
    "store", "dataset", "split", "codec", "seed", "mask", "label", "val_split", "hold_out",
)  # fmt: skip
"""Flags of train-from-store that a run sets itself."""


def load_grid(name: str) -> Grid:
    """Reads a grid that ships with the package, or a file.

    Args:
        name: `city256`, or the path of a TOML file.

    Raises:
        LatentStoreError: There is none, or it contradicts itself; names the entry.
    """
    path = Path(name) if name.endswith(".toml") else GRIDS / f"{name}.toml"
    try:
        return parse_grid(tomllib.loads(path.read_text()))
    except OSError:
        shipped = ", ".join(sorted(p.stem for p in GRIDS.glob("*.toml")))
        raise LatentStoreError(
            f"there is no grid {name}; give one of {shipped}, or the path of a .toml file"
        ) from None
    except LatentStoreError as error:
        raise LatentStoreError(f"{path}: {error}") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise LatentStoreError(f"{path} is no TOML ({error}); mend it") from error


def parse_grid(content: Mapping[str, Any]) -> Grid:
    """Builds a grid from what its file says, and checks it.

    Raises:
        LatentStoreError: An entry is unknown, missing, or names what is not there.
    """
    content = dict(content)
    for name in ("name", "dataset", "codecs", "method"):
        if not content.get(name):
            raise LatentStoreError(
                f"a grid needs {name}; see training/experiments/grids for examples"
            )
    codecs, methods = content.pop("codecs"), content.pop("method")
    rankings: dict[str, RankingRule] = {}
    for name, entry in content.pop("ranking", {}).items():
        rankings[name] = _rule(name, entry, rankings)
    made = {
        "codecs": codecs,
        "rankings": rankings,
        "methods": {n: _method(n, m, codecs, rankings) for n, m in methods.items()},
        "claims": tuple(_filled(Claim, "a [[claim]]", c) for c in content.pop("claim", ())),
    }
    grid: Grid = _filled(Grid, "a grid", {"middle": next(iter(codecs)), **content}, **made)
    _check(grid)
    return grid


def _rule(name: str, entry: Mapping[str, Any], known: Mapping[str, RankingRule]) -> RankingRule:
    where, of = f"[ranking.{name}]", entry.get("of", ())
    _require(f"{where} of", of, known, "rankings before it")
    rule: RankingRule = _filled(
        RankingRule, where, {**entry, "of": [known[n] for n in of]}, name=name
    )
    _require(f"{where} method", [rule.method], (*RANKING_METHODS, SHARED), "ways to rank")
    needed = {FREQUENCY: "gate", SHARED: "of"}
    for method, what in needed.items():
        if (rule.method == method) != bool(getattr(rule, what)):
            raise LatentStoreError(
                f"{where}: `{what}` goes with method {method}, and with no other; got method "
                f"{rule.method!r} and {what} {entry.get(what)!r}"
            )
    return rule


def _method(
    name: str,
    entry: Mapping[str, Any],
    codecs: Mapping[str, str],
    rankings: Mapping[str, RankingRule],
) -> GridMethod:
    entry, where = dict(entry), f"[method.{name}]"
    own: dict[str, Any] = {k: entry.pop(k) for k in ("teacher", "init_from") if k in entry}
    own["stops"] = tuple(entry.pop("stops", ()))
    ranking, seeds = entry.pop("ranking", None), entry.pop("seeds", {})
    chosen = entry.pop("codecs", list(codecs))
    seeds = seeds if isinstance(seeds, Mapping) else dict.fromkeys(chosen, seeds)
    _require(f"{where} ranking", [ranking], rankings, "rankings")
    _require(f"{where} codecs", chosen, codecs, "codecs")
    _require(f"{where} seeds", seeds, chosen, "codecs of this method")
    _require(f"{where} task", [entry.get("task")], TASKS, "tasks")
    _check_flags(where, entry)
    return GridMethod(
        name=name,
        flags=entry,
        ranking=None if ranking is None else rankings[ranking],
        seeds={codec: tuple(seeds.get(codec, (0,))) for codec in chosen},
        **own,
    )


def _filled(kind: type[Any], where: str, entry: Mapping[str, Any], **made: Any) -> Any:
    """Returns the dataclass with an entry's values, and with those made of other entries."""
    fields = [f for f in dataclasses.fields(kind) if f.name not in made]
    _refuse_unknown(where, entry, [f.name for f in fields])
    required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in entry]:
        raise LatentStoreError(f"{where} needs {', '.join(missing)}")
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in entry.items()}
    return kind(**values, **made)


def _check_flags(where: str, flags: Mapping[str, Any]) -> None:
    known = {f.name for config in CONFIGS for f in dataclasses.fields(config)}
    _refuse_unknown(where, flags, known - set(_OWN_FLAGS))


def _refuse_unknown(where: str, entry: Mapping[str, Any], known: Collection[str]) -> None:
    if unknown := sorted(set(entry) - set(known)):
        raise LatentStoreError(
            f"{where} has {', '.join(unknown)}, which mean nothing there; known are "
            f"{', '.join(sorted(known))}"
        )


def _check(grid: Grid) -> None:
    """Refuses names that nothing bears, runs that could never start, and more than the budget."""
    _check_flags("[train]", grid.train)
    _require("middle", [grid.middle], grid.codecs, "codecs")
    for rule in grid.rankings.values():
        _require(f"[ranking.{rule.name}] gate", [rule.gate], grid.methods, "methods")
    for method in grid.methods.values():
        where = f"[method.{method.name}] init_from"
        _require(where, [method.init_from], grid.methods, "methods")
    for claim in grid.claims:
        where = f"claim {claim.what!r}"
        _require(where, [*claim.test, claim.anchor], grid.rows, "methods")
        _require(f"{where} measure", [claim.measure], MEASURES, "measures")
    at_middle = [n for n, m in grid.methods.items() if grid.middle in m.seeds]
    _require("timed", grid.timed, at_middle, f"methods at {grid.middle}")
    _require("curves", grid.curves, at_middle, f"methods at {grid.middle}")
    _require("transforms", grid.transforms, grid.methods, "methods")
    _require_startable(grid)
    steps = grid.steps(grid.runs())
    if grid.budget is not None and steps > grid.budget:
        raise LatentStoreError(
            f"the runs train {steps} steps, the grid's budget is {grid.budget}: give fewer seeds, "
            "codecs or steps, or a larger budget"
        )


def _require_startable(grid: Grid) -> None:
    needs = {run.name: run.needs for run in grid.declared}
    for name, needed in needs.items():
        if missing := [other for other in needed if other not in needs]:
            raise LatentStoreError(
                f"{name} needs {missing[0]}, which the grid does not run: give that method the "
                "same codecs and seeds"
            )
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise LatentStoreError(
            f"these runs wait for each other: {', '.join(error.args[1])}; mend the methods' "
            "init_from or the rankings' gate"
        ) from None


def _require(where: str, names: Iterable[Any], known: Collection[str], what: str) -> None:
    for name in names:
        if name is not None and name not in known:
            raise LatentStoreError(
                f"{where} names {name!r}; the grid's {what} are {', '.join(known)}"
            )
