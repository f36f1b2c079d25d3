"""Methods: points that belong together, their curve, their seeds, their sweep over N.

A method is one label at one N. Its points at several codecs are a curve of rate and score; its
points of several seeds at one codec are repetitions, whose mean is what the curve shows. The
points of one family (a label but for its N) at one codec are a sweep over N.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latent_store.errors import DatasetError
from training.evaluation.curves import Curve
from training.evaluation.points import Point
from training.tasks.registry import find_task


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method at one N, with points of every codec and seed, in order of appearance."""

    name: str
    points: tuple[Point, ...]

    @property
    def keep(self) -> int | None:
        """N, the number of ranked channels; None for all in natural order."""
        return self.points[0].keep

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds that it was trained with, in order of appearance."""
        return tuple(dict.fromkeys(p.seed for p in self.points))

    @property
    def by_codec(self) -> dict[str, list[Point]]:
        """The points of each codec, one a seed."""
        ids = dict.fromkeys(p.codec_id for p in self.points)
        return {codec_id: [p for p in self.points if p.codec_id == codec_id] for codec_id in ids}

    @property
    def curve(self) -> Curve:
        """Rate and score at each codec, means over seeds."""
        groups = self.by_codec.values()
        return Curve(
            name=self.name,
            rates=tuple(float(np.mean([p.bpp for p in group])) for group in groups),
            scores=tuple(float(np.mean([p.score for p in group])) for group in groups),
        )

    @property
    def learned(self) -> Method | None:
        """The method at the codecs where it beats what nothing learned gives; None without any.

        Only there do its rates mean something; see `Point.floor`.
        """
        gains: dict[tuple[str, str], list[float]] = defaultdict(list)
        for point in self.points:
            gains[point.codec_id, point.label].append(point.score - point.floor)
        points = tuple(p for p in self.points if np.mean(gains[p.codec_id, p.label]) > 0)
        return Method(name=self.name, points=points) if points else None

    def of_seed(self, seed: int | None) -> Method | None:
        """Returns the method as one seed has it; None if it was not trained with that seed."""
        points = tuple(p for p in self.points if p.seed == seed)
        return Method(name=self.name, points=points) if points else None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One family of methods at one codec, over N.

    Attributes:
        name: The label with N in the place of the number.
        methods: By rising N, each with the points of this codec alone.
    """

    name: str
    codec_id: str
    methods: tuple[Method, ...]

    @property
    def keeps(self) -> tuple[int, ...]:
        """The N of each method."""
        return tuple(method.keep or 0 for method in self.methods)


def make_methods(points: Sequence[Point]) -> list[Method]:
    """Groups points by label and N, in order of appearance.

    N is added to the name where one label stands for several.

    Raises:
        DatasetError: Two points are one method, codec and seed; or see `require_comparable`.
    """
    require_comparable(points)
    together = Counter((p.label, p.codec_id, p.seed, p.keep) for p in points)
    for (label, codec_id, seed, _), number in together.items():
        if number > 1:
            raise DatasetError(
                f"two points are {label!r} at codec {codec_id} with seed {seed}: on one curve the "
                "better would hide the other; give them different labels"
            )
    pairs = dict.fromkeys((p.label, p.keep) for p in points)
    cuts = Counter(label for label, _ in pairs)
    return [
        Method(
            name=label if cuts[label] == 1 else f"{label}, N = {keep or 'all'}",
            points=tuple(p for p in points if (p.label, p.keep) == (label, keep)),
        )
        for label, keep in pairs
    ]


def point_names(points: Sequence[Point]) -> list[str]:
    """Returns each point's name: its method's, and its seed where the method has several."""
    names = {}
    for method in make_methods(points):
        for point in method.points:
            seed = "unknown" if point.seed is None else point.seed
            names[id(point)] = method.name + (f", seed {seed}" if len(method.seeds) > 1 else "")
    return [names[id(point)] for point in points]


def make_sweeps(points: Sequence[Point]) -> list[Sweep]:
    """Returns the families that have several N at one codec, in order of appearance."""
    grouped: dict[tuple[str, str], list[Method]] = defaultdict(list)
    for method in make_methods(points):
        family = _family(method.points[0].label, method.keep)
        for codec_id, members in method.by_codec.items() if method.keep else ():
            grouped[family, codec_id].append(Method(name=method.name, points=tuple(members)))
    return [
        Sweep(name=name, codec_id=codec, methods=tuple(sorted(found, key=lambda m: m.keep or 0)))
        for (name, codec), found in grouped.items()
        if len(found) > 1
    ]


def _family(label: str, keep: int | None) -> str:
    """Returns a label with N in the place of its number, which follows the name: "any-16 (gate)".

    The name itself may hold the same number: "q16-any-16". Else it is the first one that there is.
    """
    name, bracket, rest = label.partition(" (")
    family, found = re.subn(rf"^(.*-){keep}(?!\d)", r"\g<1>N", name)
    number = rf"(?<!\d){keep}(?!\d)"
    return family + bracket + rest if found else re.sub(number, "N", label, count=1)


def require_comparable(points: Sequence[Point]) -> None:
    """Refuses points that no common table can hold.

    Raises:
        DatasetError: There are none; their tasks or classes differ; or one has no images, or
            nothing in them to get right.
    """
    if not points:
        raise DatasetError(
            "there are no points to compare; measure networks with evaluate-from-store"
        )
    first = points[0]
    of_tasks = {point.task: point for point in reversed(points)}
    del of_tasks[first.task]
    for other, point in of_tasks.items():
        raise DatasetError(
            f"{first.label} was measured in {first.task}, {point.label} in {other}; "
            "compare points of one task"
        )
    for point in points:
        if len(point.class_names) != len(first.class_names):
            raise DatasetError(
                f"{first.label} was measured with {len(first.class_names)} classes, {point.label} "
                f"with {len(point.class_names)}; compare points of one dataset"
            )
        for number, (mine, theirs) in enumerate(
            zip(first.class_names, point.class_names, strict=True)
        ):
            if mine != theirs:
                raise DatasetError(
                    f"class {number} of {first.label} is {mine!r}, of {point.label} it is "
                    f"{theirs!r}; compare points of one dataset"
                )
        if not point.samples:
            raise DatasetError(
                f"{point.label} was measured on no images; measure it on a split that has some"
            )
        if not any(sample.part.counted for sample in point.samples):
            task = find_task(point.task)
            images = f"the {len(point.samples)} images of {point.label}"
            raise DatasetError(
                f"{task.nothing.format(images=images)}: it has no {task.metric.title}; measure it "
                f"on a split with {task.wanted}"
            )
