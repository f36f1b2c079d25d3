"""A grid: which networks are trained on which codecs with which seeds, as a TOML file declares it.

    name = "camvid_cpu"
    dataset = "cityscapes"

    [codecs]                        # short name = id in the store, by rising rate
    q1 = "bmshj2018-hyperprior-796ae7d2"

    [train]                         # flags of train-from-store that every network gets
    max_steps = 120

    [ranking.frequency]             # how channel-frequency ranks; `gate` is a method of this grid
    method = "frequency"
    gate = "dynamic"

    [method.frequency-32]           # one row of every table
    selection = "static"            # further flags of train-from-store
    keep = 32
    ranking = "frequency"
    codecs = ["q1"]                 # default: all
    seeds = { q1 = [0, 1, 2] }      # default: [0] everywhere

A method with `teacher = true` trains nothing: the store's teacher is given decoded pictures.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from latent_store.catalogue.rankings import METHODS as RANKING_METHODS
from latent_store.errors import LatentStoreError
from training.trainer.job import CONFIGS

GRIDS = Path(__file__).parent / "grids"
FREQUENCY = "frequency"
_OWN_FLAGS = ("store", "dataset", "split", "codec", "seed", "mask", "label", "val_split")
"""Flags of train-from-store that a run sets itself."""


def _run_name(method: str, codec: str, seed: int) -> str:
    return f"{method}_{codec}_s{seed}"


@dataclass(frozen=True, kw_only=True)
class RankingRule:
    """The derivation of a ranking, or of one ranking a seed.

    Attributes:
        method: Of channel-frequency.
        gate: For `frequency`: the method whose network's gate is counted, of the same codec and
            seed; every seed of such a ranking is another ranking.
    """

    name: str
    method: str = FREQUENCY
    gate: str | None = None


@dataclass(frozen=True, kw_only=True)
class GridMethod:
    """One row of the tables: the same kind of network on several codecs, with several seeds.

    Attributes:
        flags: Of train-from-store, beyond the grid's own.
        ranking: The rule of a static or any-N network's ranking.
        teacher: Nothing is trained; the store's teacher is given decoded pictures.
        init_from: The method whose network, of the same codec and seed, this one starts from.
        seeds: Codec -> seeds: the pairs that it is run on.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    ranking: RankingRule | None = None
    teacher: bool = False
    init_from: str | None = None
    seeds: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One network of a grid: one method, one codec, one seed."""

    method: GridMethod
    codec: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its record, e.g. `frequency-32_q2_s0`."""
        return _run_name(self.method.name, self.codec, self.seed)

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the runs that must be finished before this one starts."""
        rule = self.method.ranking
        methods = (rule.gate if rule else None, self.method.init_from)
        return tuple(_run_name(m, self.codec, self.seed) for m in methods if m is not None)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A saving of the paper, and the two methods that show ours.

    Attributes:
        what: The saving in words.
        test, anchor: Methods; the saving is of `test` against `anchor` at equal mIoU. `test`
            may list several: the best is taken, and named.
        paper: The paper's number, as text.
        aim: The number that this project wants, a fraction.
    """

    what: str
    test: tuple[str, ...]
    anchor: str
    paper: str
    aim: float


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A declared experiment.

    Attributes:
        codecs: Short name -> id in the store, by rising rate.
        train: Flags of train-from-store that every network gets.
        middle: The codec at which one-codec methods are compared.
        timed: Methods whose latency is measured, at the middle codec with its first seed.
        transforms: Methods of table 2, the transform modules; all else should be equal.
    """

    name: str
    dataset: str
    codecs: Mapping[str, str]
    methods: Mapping[str, GridMethod]
    middle: str
    split: str = "train"
    val_split: str = "val"
    train: Mapping[str, Any] = field(default_factory=dict)
    rankings: Mapping[str, RankingRule]
    claims: tuple[Claim, ...]
    timed: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()

    def runs(self) -> Iterator[GridRun]:
        """Yields every run, methods in the order of the file."""
        for method in self.methods.values():
            for codec, seeds in method.seeds.items():
                for seed in seeds:
                    yield GridRun(method=method, codec=codec, seed=seed)

    def runs_with_needs(self, methods: Sequence[str]) -> list[GridRun]:
        """Returns the runs of some methods and the runs that these need.

        Raises:
            LatentStoreError: The grid has no such method.
        """
        if unknown := [name for name in methods if name not in self.methods]:
            raise LatentStoreError(
                f"the grid {self.name} has no method {unknown[0]}; it has {list(self.methods)}"
            )
        runs = {run.name: run for run in self.runs()}
        names = [name for name, run in runs.items() if run.method.name in methods]
        for name in names:  # grows: a need may have needs
            names += [need for need in runs[name].needs if need not in names]
        return [run for name, run in runs.items() if name in names]

    def shortened(self, max_steps: int) -> Grid:
        """Returns the grid with so many steps for every network, whatever a method has."""
        methods = {
            name: replace(m, flags={k: v for k, v in m.flags.items() if k != "max_steps"})
            for name, m in self.methods.items()
        }
        return replace(self, train={**self.train, "max_steps": max_steps}, methods=methods)

    def timed_runs(self) -> list[GridRun]:
        """Returns the runs whose networks are timed."""
        methods = [self.methods[name] for name in self.timed]
        return [GridRun(method=m, codec=self.middle, seed=m.seeds[self.middle][0]) for m in methods]

    def ranking_id(self, rule: RankingRule, seed: int) -> str:
        """Returns a ranking's name in the store; a gate's has its seed, others know no seed."""
        return f"{self.name}-{rule.name}" + (f"-s{seed}" if rule.gate else "")


def load_grid(name: str) -> Grid:
    """Reads a grid that ships with the package, or a file.

    Args:
        name: `camvid_cpu`, or the path of a TOML file.

    Raises:
        LatentStoreError: There is none, or it contradicts itself; names the entry.
    """
    path = Path(name) if name.endswith(".toml") else GRIDS / f"{name}.toml"
    try:
        text = path.read_text()
    except OSError:
        shipped = ", ".join(sorted(p.stem for p in GRIDS.glob("*.toml")))
        raise LatentStoreError(
            f"there is no grid {name}; give one of {shipped}, or the path of a .toml file"
        ) from None
    try:
        return parse_grid(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise LatentStoreError(f"{path} is no TOML ({error}); mend it") from error
    except LatentStoreError as error:
        raise LatentStoreError(f"{path}: {error}") from error


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
    rankings = {n: _rule(n, r) for n, r in content.pop("ranking", {}).items()}
    made = {
        "codecs": codecs,
        "rankings": rankings,
        "methods": {n: _method(n, m, codecs, rankings) for n, m in methods.items()},
        "claims": tuple(_claim(c) for c in content.pop("claim", ())),
    }
    grid: Grid = _filled(Grid, "a grid", {"middle": next(iter(codecs)), **content}, **made)
    _check(grid)
    return grid


def _rule(name: str, entry: Mapping[str, Any]) -> RankingRule:
    where = f"[ranking.{name}]"
    rule: RankingRule = _filled(RankingRule, where, entry, name=name)
    if rule.method not in RANKING_METHODS:
        raise LatentStoreError(
            f"{where} has method {rule.method!r}; choose one of {', '.join(RANKING_METHODS)}"
        )
    if (rule.method == FREQUENCY) != (rule.gate is not None):
        raise LatentStoreError(
            f"{where}: a gate goes with method frequency, and with no other; got method "
            f"{rule.method!r} and gate {rule.gate!r}"
        )
    return rule


def _method(
    name: str,
    entry: Mapping[str, Any],
    codecs: Mapping[str, str],
    rankings: Mapping[str, RankingRule],
) -> GridMethod:
    entry, where = dict(entry), f"[method.{name}]"
    own = {key: entry.pop(key) for key in ("teacher", "init_from") if key in entry}
    ranking, seeds = entry.pop("ranking", None), entry.pop("seeds", {})
    chosen = entry.pop("codecs", list(codecs))
    _require(f"{where} ranking", [ranking], rankings, "rankings")
    _require(f"{where} codecs", chosen, codecs, "codecs")
    _require(f"{where} seeds", seeds, dict.fromkeys(chosen), "codecs of this method")
    _check_flags(where, entry)
    return GridMethod(
        name=name,
        flags=entry,
        ranking=None if ranking is None else rankings[ranking],
        seeds={codec: tuple(seeds.get(codec, (0,))) for codec in chosen},
        **own,
    )


def _claim(entry: Mapping[str, Any]) -> Claim:
    if isinstance(entry.get("test"), str):
        entry = {**entry, "test": [entry["test"]]}
    claim: Claim = _filled(Claim, "a [[claim]]", entry)
    return claim


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
    """Refuses names that nothing bears, and runs that could never start."""
    _check_flags("[train]", grid.train)
    _require("middle", [grid.middle], grid.codecs, "codecs")
    for rule in grid.rankings.values():
        _require(f"[ranking.{rule.name}] gate", [rule.gate], grid.methods, "methods")
    for method in grid.methods.values():
        where = f"[method.{method.name}] init_from"
        _require(where, [method.init_from], grid.methods, "methods")
    for claim in grid.claims:
        _require(f"claim {claim.what!r}", [*claim.test, claim.anchor], grid.methods, "methods")
    at_middle = {n: m for n, m in grid.methods.items() if grid.middle in m.seeds}
    _require("timed", grid.timed, at_middle, f"methods at {grid.middle}")
    _require("transforms", grid.transforms, grid.methods, "methods")
    needs = {run.name: run.needs for run in grid.runs()}
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


def _require(where: str, names: Any, known: Mapping[str, Any], what: str) -> None:
    for name in names:
        if name is not None and name not in known:
            raise LatentStoreError(
                f"{where} names {name!r}; the grid's {what} are {', '.join(known)}"
            )
