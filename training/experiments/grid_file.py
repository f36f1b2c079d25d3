"""Grid files: a TOML file read into a grid, or refused with the entry that contradicts it."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from latent_store.catalogue.rankings import METHODS as RANKING_METHODS
from latent_store.errors import LatentStoreError
from latent_store.tools.shared_orders import METHOD as SHARED
from training.experiments.grid import FREQUENCY, SAVING, Claim, Grid, GridMethod, RankingRule
from training.tasks.registry import TASKS
from training.trainer.job import CONFIGS

_Kind = TypeVar("_Kind", bound=msgspec.Struct)
_GRID_FIELDS = {field.name for field in dataclasses.fields(Grid)}
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


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """An entry as a file has it; a value of another type, or another key, is refused."""


class _Rule(_Entry):
    method: str = FREQUENCY
    gate: str | None = None
    of: tuple[str, ...] = ()


class _Method(_Entry):
    ranking: str | None = None
    teacher: bool = False
    init_from: str | None = None
    one_set: str | None = None
    stops: tuple[float, ...] = ()
    codecs: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | dict[str, tuple[int, ...]] = (0,)


class _Grid(_Entry):
    name: str
    dataset: str
    codecs: dict[str, str]
    method: dict[str, dict[str, Any]]
    split: str = "train"
    val_split: str = "val"
    train: dict[str, Any] = {}
    middle: str | None = None
    hold_out: tuple[str, ...] = ()
    teacher_per_seed: bool = False
    budget: int | None = None
    curves: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    ranking: dict[str, _Rule] = {}
    claim: tuple[Claim, ...] = ()


def parse_grid(content: Mapping[str, Any]) -> Grid:
    """Builds a grid from what its file says, and checks it.

    Raises:
        LatentStoreError: An entry is unknown, missing, or names what is not there.
    """
    file = _read("a grid", content, _Grid)
    if not (file.codecs and file.method):
        raise LatentStoreError(
            "a grid needs codecs and method; see training/experiments/grids for examples"
        )
    rankings: dict[str, RankingRule] = {}
    for name, entry in file.ranking.items():
        rankings[name] = _rule(name, entry, rankings)
    same = {f: getattr(file, f) for f in _Grid.__struct_fields__ if f in _GRID_FIELDS}
    grid = Grid(
        **same | {"middle": file.middle or next(iter(file.codecs))},
        rankings=rankings,
        methods={n: _method(n, m, file.codecs, rankings) for n, m in file.method.items()},
        claims=file.claim,
    )
    _check(grid)
    return grid


def _read(where: str, entry: Mapping[str, Any], kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        raise LatentStoreError(
            f"{where}: {error}; see training/experiments/grids for examples"
        ) from error


def _rule(name: str, entry: _Rule, known: Mapping[str, RankingRule]) -> RankingRule:
    where = f"[ranking.{name}]"
    _require(f"{where} of", entry.of, known, "rankings before it")
    _require(f"{where} method", [entry.method], (*RANKING_METHODS, SHARED), "ways to rank")
    for method, what in ((FREQUENCY, "gate"), (SHARED, "of")):
        if (entry.method == method) != bool(getattr(entry, what)):
            raise LatentStoreError(
                f"{where}: `{what}` goes with method {method}, and with no other; got method "
                f"{entry.method!r} and {what} {getattr(entry, what)!r}"
            )
    of = tuple(known[n] for n in entry.of)
    return RankingRule(name=name, method=entry.method, gate=entry.gate, of=of)


def _method(
    name: str,
    entry: Mapping[str, Any],
    codecs: Mapping[str, str],
    rankings: Mapping[str, RankingRule],
) -> GridMethod:
    where, own = f"[method.{name}]", _Method.__struct_fields__
    flags = {key: value for key, value in entry.items() if key not in own}
    found = _read(where, {key: value for key, value in entry.items() if key in own}, _Method)
    chosen = tuple(codecs) if found.codecs is None else found.codecs
    seeds = found.seeds if isinstance(found.seeds, dict) else dict.fromkeys(chosen, found.seeds)
    _require(f"{where} ranking", [found.ranking], rankings, "rankings")
    _require(f"{where} codecs", chosen, codecs, "codecs")
    _require(f"{where} seeds", seeds, chosen, "codecs of this method")
    _require(f"{where} task", [flags.get("task")], TASKS, "tasks")
    _check_flags(where, flags)
    return GridMethod(
        name=name,
        flags=flags,
        ranking=None if found.ranking is None else rankings[found.ranking],
        teacher=found.teacher,
        init_from=found.init_from,
        one_set=found.one_set,
        stops=found.stops,
        seeds={codec: seeds.get(codec, (0,)) for codec in chosen},
    )


def _check_flags(where: str, flags: Mapping[str, Any]) -> None:
    known = {f.name for config in CONFIGS for f in dataclasses.fields(config)} - set(_OWN_FLAGS)
    if unknown := sorted(set(flags) - known):
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
        where = f"[method.{method.name}]"
        _require(f"{where} init_from", [method.init_from], grid.methods, "methods")
        with_cuts = [name for name, other in grid.methods.items() if "cuts" in other.flags]
        _require(f"{where} one_set", [method.one_set], with_cuts, "methods with cuts")
    for claim in grid.claims:
        names = [*claim.test, claim.anchor]
        _require(f"claim {claim.what!r}", names, grid.rows, "methods")
        if not claim.test or len(set(names)) < len(names):
            raise LatentStoreError(
                f"claim {claim.what!r} needs one or more tests, each once and none of them the "
                f"anchor, got test {', '.join(claim.test) or 'none'} and anchor {claim.anchor}"
            )
        if claim.together and claim.measure != SAVING:
            raise LatentStoreError(
                f"claim {claim.what!r}: together goes with measure saving, got {claim.measure}; "
                "leave it out"
            )
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
