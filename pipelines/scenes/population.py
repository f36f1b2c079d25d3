"""The population of a procedural street scene: which objects stand where along its road."""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pipelines.scenes.buildings import building
from pipelines.scenes.camera import Label, Painter
from pipelines.scenes.ground import Plan
from pipelines.scenes.roadside import barrier, hedge, pole, tree
from pipelines.scenes.traffic import LARGE, bicycle, cyclist, person, vehicle

_KINDS, _ODDS = ["saloon", "hatch", "van", "bus", "truck"], [0.42, 0.32, 0.14, 0.05, 0.07]


class Population:
    """Objects along a road, planned at once and drawn later, the farthest first."""

    def __init__(self, painter: Painter, rng: Generator, plan: Plan) -> None:
        self.painter, self.rng, self.plan = painter, rng, plan
        self._entries: list[tuple[float, Callable[[], object]]] = []
        for side in (-1, 1):
            self._add_roadside(side)
            self._add_pavement(side)
        for side in (-1, 1):
            self._add_vehicles(side)
        self._add_others()

    def far_to_near(self) -> list[Callable[[], object]]:
        """Returns what draws each object."""
        return [draw for _, draw in sorted(self._entries, key=lambda entry: -entry[0])]

    def _add(self, depth: float, function: Callable[..., object], *args: object) -> None:
        # Each object owns a generator: whether one is drawn does not change the next.
        own = np.random.default_rng(int(self.rng.integers(2**63)))
        self._entries.append((depth, lambda: function(self.painter, own, *args)))

    def _stand(self, function: Callable[..., object], deep: float, s: float, *args: object) -> None:
        """Adds what stands at depth `deep`, s metres to the right of the centre line."""
        self._add(deep, function, self.painter.view.beside(deep, s), deep, *args)

    def _add_roadside(self, side: int) -> None:
        """Plans one side of the road: buildings or barriers in a row, trees behind them."""
        rng, plan = self.rng, self.plan
        edge = plan.road + plan.walk
        density = np.clip(plan.density * rng.uniform(0.6, 1.25), 0, 1)
        near, far = plan.crossing - 1 - plan.walk, plan.crossing + plan.crossing_width + plan.walk
        z = rng.uniform(1.0, 4.0)
        while z < 130:
            length = rng.uniform(7, 22)
            s = edge + plan.verge + rng.uniform(0.0, 0.8)
            if near < z + length and z < far:
                z = max(z + 3, far + 1 if z > plan.crossing - 8 else 0)
                continue
            if rng.random() < density:
                self._add(z + length, building, side, s, z, z + length, plan.tall)
            elif rng.random() < 0.45:
                label = Label.FENCE if rng.random() < 0.6 else Label.WALL
                self._add(z + length, barrier, side, edge + 0.4, z, z + length, label)
            for _ in range(rng.poisson(0.8 if plan.density > 0.5 else 2.0)):
                back, deep = rng.exponential(12) + 0.5, z + rng.uniform(0, length)
                self._stand(tree, deep, side * (s + back), rng.uniform(1.0, 12))
            z += length * (1.0 if rng.random() < 0.75 else rng.uniform(1.0, 1.6))

    def _add_pavement(self, side: int) -> None:
        """Plans what stands between road and buildings: street trees, posts, people, bicycles."""
        rng, plan = self.rng, self.plan
        edge = plan.road + plan.walk
        if rng.random() < 0.55 and plan.density < 0.9:
            start, step, size = rng.uniform(4, 20), rng.uniform(6, 16), rng.uniform(4, 10)
            for deep in np.arange(start, rng.uniform(40, 110), step).tolist():
                s = side * (edge - 0.4 + rng.uniform(0, 1.0))
                self._stand(tree, deep, s, size * rng.uniform(0.8, 1.2))
        if rng.random() < 0.3 and plan.density < 0.9:
            self._stand(hedge, rng.uniform(5, 30), side * (edge + 0.6), rng.uniform(4, 14))
        for deep in rng.uniform(5, 60, rng.integers(1, 7)).tolist():
            kind = str(rng.choice(["lamp", "sign", "light"], p=[0.35, 0.4, 0.25]))
            self._stand(pole, deep, side * (plan.road + 0.45), -side, kind)
        for deep in (4 + rng.gamma(1.6, 9, rng.poisson(3.0 * plan.density + 0.5))).tolist():
            s = rng.uniform(plan.road + 0.3, edge + 0.3)
            for _ in range(int(rng.integers(1, 4))):
                x = self.painter.view.beside(deep, side * s) + rng.normal(0, 0.6)
                self._add(deep, person, x, deep + rng.normal(0, 0.3))
        for deep in (5 + rng.gamma(1.5, 8, rng.poisson(1.0))).tolist():
            self._stand(bicycle, deep, side * (plan.road + 0.5))

    def _add_vehicles(self, side: int) -> None:
        """Plans one side of the road's vehicles, parked and moving."""
        rng, plan, view = self.rng, self.plan, self.painter.view
        if rng.random() < 0.65 * min(1, plan.density + 0.2):
            parked = rng.uniform(6, 14)
            while parked < 75:
                if rng.random() < 0.6 and not -5 < parked - plan.crossing < plan.crossing_width + 5:
                    kind = str(rng.choice(_KINDS[:3], p=[0.5, 0.35, 0.15]))
                    yaw = view.road_yaw(parked) + (math.pi if rng.random() < 0.25 else 0)
                    self._stand(vehicle, parked, side * (plan.road - 1.0), kind, yaw)
                parked += rng.uniform(5.5, 7.5)
        moving = 7 + rng.exponential(14)
        while moving < 120:
            kind = str(rng.choice(_KINDS, p=_ODDS))
            deep = moving + (6 if kind in LARGE else 0)
            turn = math.pi if side < 0 else 0.0
            yaw = view.road_yaw(deep) + turn + rng.normal(0, 0.03)
            self._stand(vehicle, deep, side * max(plan.road * 0.4, 1.2), kind, yaw)
            moving += 12 + rng.exponential(30)

    def _add_others(self) -> None:
        """Plans cyclists and pedestrians on the road, and the traffic of the crossing one."""
        rng, plan = self.rng, self.plan
        for deep in (6 + rng.gamma(1.5, 9, rng.poisson(1.3))).tolist():
            s = rng.choice([-1, 1]) * plan.road * rng.uniform(0.5, 0.9)
            self._stand(cyclist, deep, s)
        for deep in (7 + rng.gamma(2, 8, rng.poisson(0.7))).tolist():
            self._stand(person, deep, rng.uniform(-1, 1) * plan.road)
        if plan.crossing > 1e5:
            return
        for lane in (0.28, 0.72):
            for s in rng.uniform(-35, 35, rng.poisson(1.6)).tolist():
                deep = plan.crossing + lane * plan.crossing_width - plan.crossing_slope * s
                if deep > 8:
                    yaw = math.pi / 2 + plan.crossing_slope + (math.pi if lane < 0.5 else 0)
                    self._stand(vehicle, deep, s, str(rng.choice(_KINDS, p=_ODDS)), yaw)
