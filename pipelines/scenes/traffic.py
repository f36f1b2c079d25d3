"""The traffic of a procedural street scene: people, bicycles, vehicles, each a counted object."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from pipelines.scenes.camera import XY, Colour, Label, Painter, bar, ellipse, jitter

_CAR_PAINTS = np.array(
    [
        (0.08, 0.08, 0.09), (0.75, 0.76, 0.78), (0.45, 0.47, 0.5), (0.9, 0.9, 0.88),
        (0.55, 0.07, 0.07), (0.1, 0.18, 0.42), (0.12, 0.3, 0.2), (0.6, 0.5, 0.15),
        (0.25, 0.2, 0.17),
    ]
)  # fmt: skip
_TORSO = [(-0.2, 0.85), (0.2, 0.85), (0.23, 1.42), (0.1, 1.5), (-0.1, 1.5), (-0.23, 1.42)]
_SKIN = np.array([(0.85, 0.65, 0.52), (0.62, 0.42, 0.3), (0.36, 0.23, 0.17)])

# Side profiles as (along, up) in metres, clockwise from the rear bumper; the flag marks a segment
# (from this point to the next) as glass. Then the width, the label, and the side window's outline.
_PROFILES = {
    "saloon": (
        [(0, 0.28, 0), (0, 0.85, 0), (0.5, 0.98, 1), (1.15, 1.42, 0), (2.5, 1.45, 1),
         (3.3, 0.95, 0), (4.3, 0.78, 0), (4.45, 0.28, 0)],
        1.78, Label.CAR, [(0.85, 0.98), (1.25, 1.34), (2.4, 1.36), (3.0, 0.98)],
    ),
    "hatch": (
        [(0, 0.28, 0), (0, 0.9, 1), (0.35, 1.45, 0), (2.3, 1.5, 1), (3.0, 1.0, 0), (3.8, 0.82, 0),
         (3.9, 0.28, 0)],
        1.72, Label.CAR, [(0.4, 1.0), (0.6, 1.38), (2.2, 1.42), (2.75, 1.02)],
    ),
    "van": (
        [(0, 0.3, 0), (0, 1.1, 1), (0.1, 1.9, 0), (3.7, 1.95, 1), (4.4, 1.15, 0), (5.0, 0.95, 0),
         (5.05, 0.3, 0)],
        1.9, Label.CAR, [(2.6, 1.2), (2.6, 1.75), (3.6, 1.75), (4.1, 1.2)],
    ),
    "bus": (
        [(0, 0.35, 0), (0, 1.3, 1), (0, 2.6, 0), (0.1, 3.1, 0), (11, 3.1, 0), (11.1, 2.7, 1),
         (11.2, 1.1, 0), (11.2, 0.35, 0)],
        2.5, Label.BUS, [(0.4, 1.4), (0.4, 2.5), (10.7, 2.5), (10.7, 1.4)],
    ),
    "truck": (
        [(0, 0.6, 0), (0, 3.5, 0), (5.9, 3.5, 0), (6.0, 2.7, 0), (7.3, 2.7, 1), (7.6, 1.5, 0),
         (7.7, 0.4, 0)],
        2.45, Label.TRUCK, [(6.2, 1.6), (6.2, 2.4), (7.1, 2.4), (7.3, 1.6)],
    ),
}  # fmt: skip
LARGE = ("bus", "truck")

_Point = tuple[float, float, float]


def person(painter: Painter, rng: Generator, x: float, z: float) -> None:
    """Draws a pedestrian, walking or standing."""
    k = rng.uniform(0.8, 1.1)
    draw = partial(painter.billboard, x, z, mark=painter.new_object(Label.PERSON))
    coat, trousers = rng.uniform(0.05, 0.85, 3), jitter(rng, (0.15, 0.16, 0.22), 0.6)
    stride, swing = rng.uniform(0, 0.32), rng.uniform(-0.25, 0.25)
    for foot in (-stride, stride):
        leg = bar(foot * 0.3, 0.9 * k, foot, 0.03, 0.17)
        draw(leg, trousers, gain=0.9 if foot < 0 else 1.0)
    draw([(dx, h * k) for dx, h in _TORSO], coat)
    for arm in (-1, 1):
        limb = bar(0.22 * arm, 1.4 * k, 0.27 * arm + swing * arm, 0.85 * k, 0.11)
        draw(limb, coat, gain=0.85)
    skin, hair = _SKIN[rng.integers(3)], jitter(rng, (0.2, 0.14, 0.09), 0.6)
    draw(ellipse(0, 1.63 * k, 0.11, 0.14), skin)
    draw(ellipse(0, 1.7 * k, 0.12, 0.09), hair)


def bicycle(painter: Painter, rng: Generator, x: float, z: float) -> float:
    """Draws a bicycle; returns how far it is seen from the side (0 not, -1 or 1 wholly)."""
    squeeze = rng.uniform(0.25, 1.0) * rng.choice([-1, 1])
    mark, paint = painter.new_object(Label.BICYCLE), rng.uniform(0.05, 0.7, 3)
    draw = partial(painter.billboard, x, z)
    for hub in (-0.52, 0.52):
        rim = ellipse(hub * squeeze, 0.34, 0.34 * abs(squeeze) + 0.03, 0.34, 14)
        draw(rim, (0.06, 0.06, 0.06), mark)
        # The wheel is labelled as a disc; through its spokes one sees what is behind, darkened.
        hole = ellipse(hub * squeeze, 0.34, 0.27 * abs(squeeze), 0.27, 14)
        draw(hole, (0.27, 0.27, 0.27), None)
    joints = [(-0.52, 0.34), (-0.2, 0.85), (0.4, 0.88), (0.52, 0.34), (0.45, 1.02), (-0.05, 0.36)]
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (5, 1), (5, 2), (0, 5)):
        (x0, h0), (x1, h1) = joints[i], joints[j]
        draw(bar(x0 * squeeze, h0, x1 * squeeze, h1, 0.07), paint, mark)
    return squeeze


def cyclist(painter: Painter, rng: Generator, x: float, z: float) -> None:
    """Draws a bicycle with its rider, who is an object of its own."""
    squeeze = bicycle(painter, rng, x, z)
    coat = rng.uniform(0.05, 0.9, 3)
    draw = partial(painter.billboard, x, z, mark=painter.new_object(Label.RIDER))
    trousers, lean = jitter(rng, (0.14, 0.15, 0.2), 0.6), rng.uniform(0.05, 0.3) * squeeze
    for knee in (0.15, 0.3):
        draw(bar(-0.2 * squeeze, 0.95, knee * squeeze, 0.72, 0.17), trousers)
        draw(bar(knee * squeeze, 0.72, 0.05 * squeeze, 0.25, 0.14), trousers, gain=0.9)
    draw(bar(-0.2 * squeeze, 0.88, lean, 1.45, 0.38), coat)
    draw(bar(lean, 1.38, 0.42 * squeeze, 1.02, 0.11), coat, gain=0.85)
    draw(ellipse(lean * 1.3, 1.6, 0.11, 0.14), _SKIN[rng.integers(3)])
    draw(ellipse(lean * 1.3, 1.67, 0.13, 0.1), rng.uniform(0.05, 0.9, 3))


@dataclass(frozen=True, kw_only=True)
class _Body:
    """A vehicle's own coordinates: along from the rear, up, to the right of its middle; metres.

    Attributes:
        mark: What its shapes are marked with.
    """

    painter: Painter
    mark: int
    x: float
    z: float
    sine: float
    cosine: float
    length: float

    def place(self, points: Iterable[_Point]) -> list[_Point]:
        """Returns the points in the world."""
        ahead = ((u - self.length / 2, h, v) for u, h, v in points)
        return [
            (self.x + u * self.sine + v * self.cosine, h, self.z + u * self.cosine - v * self.sine)
            for u, h, v in ahead
        ]

    def side(
        self, shape: Iterable[XY], v: float, colour: Colour, mark: int | None, gain: float = 1
    ) -> None:
        """Fills a shape of (along, up) on the side at v."""
        self.painter.world(self.place((u, h, v) for u, h in shape), colour, mark, gain)


def vehicle(painter: Painter, rng: Generator, x: float, z: float, kind: str, yaw: float) -> None:
    """Draws a vehicle whose middle stands at (x, z); yaw 0 drives away from the camera."""
    profile, width, label, window = _PROFILES[kind]
    outline = [(u, h) for u, h, _ in profile]
    half, length = width / 2, max(u for u, _ in outline)
    sine, cosine, mark = math.sin(yaw), math.cos(yaw), painter.new_object(label)
    body = _Body(painter=painter, mark=mark, x=x, z=z, sine=sine, cosine=cosine, length=length)
    paint = jitter(rng, _CAR_PAINTS[rng.integers(len(_CAR_PAINTS))], 0.2)
    if kind in LARGE and rng.random() < 0.6:
        paint = rng.uniform(0.15, 0.9, 3)
    dark, glass = (0.05, 0.05, 0.06), np.array([0.16, 0.19, 0.23]) * rng.uniform(0.6, 1.6)
    wide = 1.1 * half
    skirt = [(0, 0.02, -wide), (0, 0.02, wide), (length, 0.02, wide), (length, 0.02, -wide)]
    painter.world(body.place(skirt), dark, None)
    near = half if cosine * x - sine * z < 0 else -half
    body.side(outline, -near, paint * 0.5, mark)
    close = painter.view.focal / z > 7  # small shapes vanish in a vehicle far away
    if close:
        _wheels(body, -near, kind)
    for i, ((u0, h0, pane), (u1, h1, _)) in enumerate(itertools.pairwise(profile)):
        face = body.place([(u0, h0, -half), (u0, h0, half), (u1, h1, half), (u1, h1, -half)])
        if not _faces_camera(painter.view.outline(face)):
            continue
        tilt = 1.0 if h0 == h1 else 0.72 + 0.4 * abs(u1 - u0) / length
        painter.world(face, paint, mark, min(tilt, 1.2))
        if pane:
            middle = [sum(axis) / 4 for axis in zip(*face, strict=True)]
            inset = [
                [m + 0.86 * (c - m) for c, m in zip(corner, middle, strict=True)] for corner in face
            ]
            painter.world(inset, glass, None)
        if i in (0, len(profile) - 2) and close:
            _lamps(body, u0, h0 + (h1 - h0) * 0.6, half, rear=i == 0)
    body.side(outline, near, paint, mark, 0.85)
    body.side(window, near, glass, None)
    if close:
        _doors(body, near, window, paint * 0.75)
        body.side([(0, 0.25), (0, 0.38), (length, 0.38), (length, 0.25)], near, dark, mark)
        _wheels(body, near, kind)


def _faces_camera(quad: list[XY]) -> bool:
    """Tells whether a projected quad is seen from outside, by its winding."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    return (cx - ax) * (dy - by) - (dx - bx) * (cy - ay) < 0


def _doors(body: _Body, v: float, window: Sequence[XY], colour: Colour) -> None:
    """Draws the upright gaps between the doors and panes of one side."""
    top = max(h for _, h in window)
    left, right = min(u for u, _ in window), max(u for u, _ in window)
    for split in (1.1 + 1.3 * k for k in range(int(body.length / 1.3))):
        if left < split < right:
            ends = [(split, top / 2), (split + 0.09, top / 2), (split + 0.09, top), (split, top)]
            body.side(ends, v, colour, None)


def _wheels(body: _Body, v: float, kind: str) -> None:
    """Draws the two wheels of one side."""
    radius = 0.5 if kind in LARGE else 0.33
    for hub in (0.19 * body.length, 0.8 * body.length):
        body.side(ellipse(hub, radius, radius, radius, 10), v, (0.05, 0.05, 0.05), body.mark)
        cap = ellipse(hub, radius, radius * 0.55, radius * 0.55, 8)
        body.side(cap, v, (0.4, 0.4, 0.42), None)


def _lamps(body: _Body, u: float, h: float, half: float, *, rear: bool) -> None:
    """Draws the two lamps and the number plate of a vehicle's rear or front."""
    lamp = (0.75, 0.05, 0.04) if rear else (0.95, 0.93, 0.8)
    gain = 1.0 / max(0.35, float(body.painter.look.light.mean()))

    def plate(v: float, low: float, high: float, wide: float, colour: Colour, gain: float) -> None:
        ends = ((v - wide, low), (v + wide, low), (v + wide, high), (v - wide, high))
        body.painter.world(body.place((u, h, v) for v, h in ends), colour, None, gain)

    for v in (-0.78 * half, 0.78 * half):
        plate(v, h - 0.09, h + 0.09, 0.17, lamp, gain)
    plate(0.0, h - 0.24, h - 0.13, 0.25, (0.85, 0.85, 0.8), 1.0)
