"""A grid: which networks are trained on which codecs with which seeds, as a TOML file declares it.

    name = "city256"
    dataset = "cityscapes"
    hold_out = ["bochum_", "erfurt_"]   # left out of training; settings are chosen on them
    teacher_per_seed = true             # a seed is a teacher of its own too; default: one for all
    budget = 90000                      # most steps of all runs together

    [codecs]                            # short name = id in the store, by rising rate
    q1 = "bmshj2018-hyperprior-796ae7d2"

    [train]                             # flags of train-from-store that every network gets
    max_steps = 120

    [ranking.frequency]                 # how channel-frequency ranks; `gate` is a method
    method = "frequency"
    gate = "dynamic"

    [method.frequency-32]               # one row of every table
    selection = "static"                # further flags of train-from-store
    keep = 32
    ranking = "frequency"
    codecs = ["q1"]                     # default: all
    seeds = [0, 1, 2]                   # or { q1 = [0, 1, 2] }; default: [0] everywhere

    [[claim]]
    what = "32 channels of the gate against 32 by variance"
    test = ["frequency-32"]
    anchor = "variance-32"
    paper = "15.8 %"
    aim = 0.16

A method with `teacher = true` trains nothing: the store's teacher is given decoded pictures. Nor
does one with `one_set = "any"`: it is the network of `any` with the same statistics at all cuts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from latent_store.errors import LatentStoreError
from training.trainer.job import ModelConfig

FREQUENCY = "frequency"
SAVING: Literal["saving"] = "saving"


@dataclass(frozen=True, kw_only=True)
class RankingRule:
    """The derivation of a ranking, or of one ranking a seed.

    Attributes:
        method: Of channel-frequency, or `shared`: one order of channels for several tasks.
        gate: For `frequency`: the method whose network's gate is counted, of the same codec and
            seed; every seed of such a ranking is another ranking.
        of: For `shared`: the rules whose rankings are merged. A method's `keep` is then the number
            of channels that each of them needs, and the network gets all of these.
    """

    name: str
    method: str
    gate: str | None
    of: tuple[RankingRule, ...]

    @property
    def gates(self) -> tuple[str, ...]:
        """The methods whose gates are counted."""
        own = () if self.gate is None else (self.gate,)
        return own + tuple(gate for rule in self.of for gate in rule.gates)


@dataclass(frozen=True, kw_only=True)
class GridMethod:
    """One row of the tables: the same kind of network on several codecs, with several seeds.

    Attributes:
        flags: Of train-from-store, beyond the grid's own.
        ranking: The rule of a static or any-N network's ranking.
        teacher: Nothing is trained; the store's teacher is given decoded pictures.
        init_from: The method whose network, of the same codec and seed, this one starts from.
        one_set: The method for any N whose network, of the same codec and seed, this one is, but
            with one set of batch norm's statistics for all cuts; nothing is trained.
        stops: Confidences at which a network for any N is measured too, see `--stop_confidence`.
        seeds: Codec -> seeds: the pairs that it is run on.
    """

    name: str
    flags: Mapping[str, Any]
    ranking: RankingRule | None
    teacher: bool
    init_from: str | None
    one_set: str | None
    stops: tuple[float, ...]
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def task(self) -> str:
        """The task of its networks."""
        return str(self.flags.get("task", ModelConfig.task))


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One network of a grid: one method, one codec, one seed."""

    method: GridMethod
    codec: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its record, e.g. `frequency-32_q2_s0`."""
        return self._sibling(self.method.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the runs that must be finished before this one starts."""
        rule, starts = self.method.ranking, (self.method.init_from, self.method.one_set)
        methods = (rule.gates if rule else ()) + tuple(name for name in starts if name is not None)
        return tuple(map(self._sibling, methods))

    def _sibling(self, method: str) -> str:
        return f"{method}_{self.codec}_s{self.seed}"


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that one method does better than another.

    Attributes:
        what: In words.
        test: Methods; the best of them is taken, and named.
        anchor: The method that it is held against.
        paper: The paper's number, as text.
        aim: The number that this project wants, a fraction.
        measure: `saving`, the rate saved at equal score; `relative` or `points`, the score at equal
            codec, as a share of the anchor's or as a difference, at the codec where it is least.
        together: The tests are one curve, as static networks of several N are, and none of them is
            taken; for a saving.
    """

    what: str
    test: tuple[str, ...]
    anchor: str
    paper: str
    aim: float
    measure: Literal["saving", "relative", "points"] = SAVING
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A declared experiment.

    Attributes:
        codecs: Short name -> id in the store, by rising rate.
        train: Flags of train-from-store that every network gets.
        middle: The codec at which one-codec methods are compared.
        hold_out: Beginnings of the ids of those samples of `split` that no network is trained on:
            settings are chosen on them, and learning curves are of them.
        teacher_per_seed: Networks of a seed start from, and imitate, the teacher that was trained
            with that seed: a seed is the whole experiment again, and verdicts draw it as one.
        budget: Most steps of all runs together; None for any number.
        curves: Methods whose learning curves are drawn, at the middle codec.
        timed: Methods whose latency is measured, at the middle codec with its first seed.
        transforms: Methods of table 2, the transform modules; all else should be equal.
    """

    name: str
    dataset: str
    codecs: Mapping[str, str]
    split: str
    val_split: str
    train: Mapping[str, Any]
    middle: str
    hold_out: tuple[str, ...]
    teacher_per_seed: bool
    budget: int | None
    curves: tuple[str, ...]
    timed: tuple[str, ...]
    transforms: tuple[str, ...]
    rankings: Mapping[str, RankingRule]
    methods: Mapping[str, GridMethod]
    claims: tuple[Claim, ...]

    @property
    def rows(self) -> dict[str, str]:
        """The names that claims have -> the methods whose networks they are of.

        Each cut of a network for any N is a row of its own, `any-16`, and each confidence at which
        it stops, `any-stop-0.9`; `any-N` and `any-stop` are the curves of all of these.
        """
        found = {name: name for name in self.methods}
        for name, method in self.methods.items():
            cuts = self.methods[method.one_set or name].flags.get("cuts", ())
            stops = method.stops
            ends = [*cuts, "N"] if cuts else []
            ends += [*(f"stop-{stop:g}" for stop in stops), "stop"] if stops else []
            found |= {f"{name}-{end}": name for end in ends}
        return found

    @property
    def declared(self) -> list[GridRun]:
        """Every run, methods in the order of the file."""
        return [
            GridRun(method=method, codec=codec, seed=seed)
            for method in self.methods.values()
            for codec, seeds in method.seeds.items()
            for seed in seeds
        ]

    def runs(
        self,
        methods: Collection[str] | None = None,
        codecs: Collection[str] | None = None,
        seeds: Collection[int] | None = None,
    ) -> list[GridRun]:
        """Returns every run, or those of some methods, codecs and seeds, in order.

        With all that they need.

        Those that claims rest on come first, codec by codec and of each codec seed by seed; then
        the others. What a run needs comes before it.

        Raises:
            LatentStoreError: The grid has no such method, codec or seed.
        """
        known_seeds = sorted({run.seed for run in self.declared})
        asked_of: tuple[tuple[str, Collection[Any] | None, Collection[Any]], ...] = (
            ("method", methods, self.methods),
            ("codec", codecs, self.codecs),
            ("seed", seeds, known_seeds),
        )
        for what, asked, has in asked_of:
            if unknown := sorted(set(asked or ()) - set(has)):
                raise LatentStoreError(
                    f"the grid {self.name} has no {what} {unknown[0]}; it has "
                    f"{', '.join(map(str, has))}"
                )
        claimed = {self.rows[name] for c in self.claims for name in (*c.test, c.anchor)}
        places, known = list(self.codecs), {run.name: run for run in self.declared}
        ordered: dict[str, GridRun] = {}

        def place(run: GridRun) -> None:
            for need in run.needs:
                place(known[need])
            ordered.setdefault(run.name, run)

        for run in sorted(
            self.declared,
            key=lambda r: (r.method.name not in claimed, places.index(r.codec), r.seed),
        ):
            wanted = ((methods, run.method.name), (codecs, run.codec), (seeds, run.seed))
            if all(among is None or name in among for among, name in wanted):
                place(run)
        return list(ordered.values())

    def flags(self, run: GridRun) -> dict[str, Any]:
        """Returns the flags of train-from-store that the grid gives a run, if it is trained."""
        trained = not run.method.teacher and run.method.one_set is None
        return {**self.train, **run.method.flags} if trained else {}

    def steps(self, runs: Iterable[GridRun]) -> int:
        """Returns how many steps runs train together, where the grid says it."""
        return sum(int(self.flags(run).get("max_steps") or 0) for run in runs)

    def shortened(self, max_steps: int) -> Grid:
        """Returns the grid with so many steps for every network, and for its distilled start."""
        methods = {
            name: replace(m, flags={k: v for k, v in m.flags.items() if k != "max_steps"})
            for name, m in self.methods.items()
        }
        steps = {"max_steps": max_steps, "distil_steps": max_steps}
        return replace(self, train={**self.train, **steps}, methods=methods)

    def of_task(self, task: str) -> Grid:
        """Returns the grid with the methods, and the claims, of one task alone."""
        of_tasks: dict[str, dict[str, GridMethod]] = defaultdict(dict)
        for name, method in self.methods.items():
            of_tasks[method.task][name] = method
        methods = of_tasks[task]
        kept: dict[str, Any] = {
            part: tuple(name for name in getattr(self, part) if name in methods)
            for part in ("curves", "timed", "transforms")
        }
        claims = tuple(claim for claim in self.claims if self.rows[claim.anchor] in methods)
        return replace(self, methods=methods, claims=claims, **kept)

    def timed_runs(self) -> list[GridRun]:
        """Returns the runs whose networks are timed."""
        methods = [self.methods[name] for name in self.timed]
        return [GridRun(method=m, codec=self.middle, seed=m.seeds[self.middle][0]) for m in methods]

    def ranking_id(self, rule: RankingRule, seed: int) -> str:
        """Returns a ranking's name in the store; a gate's has its seed, others know no seed."""
        return f"{self.name}-{rule.name}" + (f"-s{seed}" if rule.gates else "")
