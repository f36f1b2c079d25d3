"""Plain street scenes: eight classes, no clutter, and objects near enough to be seen in few pixels.

Small networks learn them in minutes. A street of houses and trees runs ahead between pavements;
cars, buses and people are on it. Light, paint and camera vary as in every other scene.
"""

import dataclasses

import numpy as np
from numpy.random import Generator

from pipelines.scenes.buildings import building
from pipelines.scenes.camera import View
from pipelines.scenes.ground import Plan
from pipelines.scenes.population import Population
from pipelines.scenes.roadside import tree
from pipelines.scenes.traffic import LARGE, person, vehicle

_KINDS, _ODDS = ["saloon", "hatch", "van", "bus"], [0.35, 0.25, 0.15, 0.25]
_NO_CROSSING = 1e6


def plain_view(rng: Generator, view: View) -> View:
    """Returns a view that shows ground, houses and sky."""
    return dataclasses.replace(
        view,
        horizon=view.height * rng.uniform(0.3, 0.58),
        heading=view.heading / 2,
        shift=rng.uniform(-1.5, 1.5),
    )


def plain_plan(rng: Generator, plan: Plan) -> Plan:
    """Returns the plan of a street that is paved from house to house, which none crosses."""
    return dataclasses.replace(
        plan,
        road=rng.uniform(3.5, 6.5),
        walk=rng.uniform(2.0, 4.5),
        verge=0.0,
        density=1.0,
        tall=rng.uniform(2, 6),
        crossing=_NO_CROSSING,
    )


class PlainPopulation(Population):
    """Houses, trees, cars, buses and people, most of them near."""

    def _add_roadside(self, side: int) -> None:
        """Plans one side's row of houses, with trees where none stands."""
        rng, plan = self.rng, self.plan
        s, z = plan.road + plan.walk + 0.4, rng.uniform(1, 4)
        while z < 130:
            length = rng.uniform(9, 22)
            if rng.random() < 0.75:
                self._add(z + length, building, side, s, z, z + length, plan.tall)
            else:
                for deep in np.arange(z + 1, z + length, 4).tolist():
                    self._stand(tree, deep, side * (s + 1.5), rng.uniform(5, 11))
            z += length

    def _add_pavement(self, side: int) -> None:
        """Plans street trees, and people."""
        rng, plan = self.rng, self.plan
        if rng.random() < 0.5:
            for deep in np.arange(rng.uniform(6, 16), 60, rng.uniform(8, 16)).tolist():
                self._stand(tree, deep, side * (plan.road + 0.8), rng.uniform(4, 8))
        for deep in (4 + rng.gamma(2, 2.5, rng.poisson(1.5))).tolist():
            self._stand(person, deep, side * rng.uniform(plan.road, plan.road + plan.walk))

    def _add_vehicles(self, side: int) -> None:
        """Plans one side of the road's vehicles."""
        rng, plan, view = self.rng, self.plan, self.painter.view
        deep = rng.uniform(6, 18)
        while deep < 60:
            kind = str(rng.choice(_KINDS, p=_ODDS))
            deep += 5 if kind in LARGE else 0
            yaw = view.road_yaw(deep) + (np.pi if side < 0 else 0.0)
            self._stand(vehicle, deep, side * plan.road * 0.55, kind, yaw)
            deep += 12 + rng.exponential(20)

    def _add_others(self) -> None:
        """Plans people who cross the road."""
        rng = self.rng
        for deep in (5 + rng.gamma(2, 3, rng.poisson(0.6))).tolist():
            self._stand(person, deep, rng.uniform(-0.9, 0.9) * self.plan.road)
