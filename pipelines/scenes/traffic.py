"""The traffic of a procedural street scene: people, bicycles, vehicles, each a counted object."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.scenes.camera import (
    BICYCLE,
    BUS,
    CAR,
    PERSON,
    RIDER,
    TRUCK,
    Colour,
    Painter,
    bar,
    ellipse,
    jitter,
)

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
        1.78, CAR, [(0.85, 0.98), (1.25, 1.34), (2.4, 1.36), (3.0, 0.98)],
    ),
    "hatch": (
        [(0, 0.28, 0), (0, 0.9, 1), (0.35, 1.45, 0), (2.3, 1.5, 1), (3.0, 1.0, 0), (3.8, 0.82, 0),
         (3.9, 0.28, 0)],
        1.72, CAR, [(0.4, 1.0), (0.6, 1.38), (2.2, 1.42), (2.75, 1.02)],
    ),
    "van": (
        [(0, 0.3, 0), (0, 1.1, 1), (0.1, 1.9, 0), (3.7, 1.95, 1), (4.4, 1.15, 0), (5.0, 0.95, 0),
         (5.05, 0.3, 0)],
        1.9, CAR, [(2.6, 1.2), (2.6, 1.75), (3.6, 1.75), (4.1, 1.2)],
    ),
    "bus": (
        [(0, 0.35, 0), (0, 1.3, 1), (0, 2.6, 0), (0.1, 3.1, 0), (11, 3.1, 0), (11.1, 2.7, 1),
         (11.2, 1.1, 0), (11.2, 0.35, 0)],
        2.5, BUS, [(0.4, 1.4), (0.4, 2.5), (10.7, 2.5), (10.7, 1.4)],
    ),
    "truck": (
        [(0, 0.6, 0), (0, 3.5, 0), (5.9, 3.5, 0), (6.0, 2.7, 0), (7.3, 2.7, 1), (7.6, 1.5, 0),
         (7.7, 0.4, 0)],
        2.45, TRUCK, [(6.2, 1.6), (6.2, 2.4), (7.1, 2.4), (7.3, 1.6)],
    ),
}  # fmt: skip
LARGE = ("bus", "truck")

_Point = tuple[float, float, float]


def person(painter: Painter, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a pedestrian, walking or standing."""
    k, one = rng.uniform(0.8, 1.1), painter.new_instance()
    draw = partial(painter.billboard, x, z, label=PERSON, instance=one)
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


def bicycle(painter: Painter, rng: np.random.Generator, x: float, z: float) -> float:
    """Draws a bicycle; returns how far it is seen from the side (0 not, -1 or 1 wholly)."""
    squeeze = rng.uniform(0.25, 1.0) * rng.choice([-1, 1])
    one, paint = painter.new_instance(), rng.uniform(0.05, 0.7, 3)
    draw = partial(painter.billboard, x, z)
    for hub in (-0.52, 0.52):
        rim = ellipse(hub * squeeze, 0.34, 0.34 * abs(squeeze) + 0.03, 0.34, 14)
        draw(rim, (0.06, 0.06, 0.06), BICYCLE, one)
        # The wheel is labelled as a disc; through its spokes one sees what is behind, darkened.
        hole = ellipse(hub * squeeze, 0.34, 0.27 * abs(squeeze), 0.27, 14)
        draw(hole, (0.27, 0.27, 0.27), None)
    joints = [(-0.52, 0.34), (-0.2, 0.85), (0.4, 0.88), (0.52, 0.34), (0.45, 1.02), (-0.05, 0.36)]
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (5, 1), (5, 2), (0, 5)):
        (x0, h0), (x1, h1) = joints[i], joints[j]
        draw(bar(x0 * squeeze, h0, x1 * squeeze, h1, 0.07), paint, BICYCLE, one)
    return squeeze


def cyclist(painter: Painter, rng: np.random.Generator, x: float, z: float) -> None:
    """Draws a bicycle with its rider, who is an object of its own."""
    squeeze = bicycle(painter, rng, x, z)
    rider, coat = painter.new_instance(), rng.uniform(0.05, 0.9, 3)
    draw = partial(painter.billboard, x, z, label=RIDER, instance=rider)
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
    """A vehicle's own coordinates: along from the rear, up, to the right of its middle; metres."""

    x: float
    z: float
    sine: float
    cosine: float
    length: float

    def place(self, points: Iterable[_Point]) -> list[_Point]:
        """Returns the points in the world."""
        middle, sine, cosine = self.length / 2, self.sine, self.cosine
        return [
            (
                self.x + (u - middle) * sine + v * cosine,
                h,
                self.z + (u - middle) * cosine - v * sine,
            )
            for u, h, v in points
        ]

    def side(self, outline: Iterable[tuple[float, float]], v: float) -> list[_Point]:
        """Returns an outline of (along, up) in the world, on the side at v."""
        return self.place((u, h, v) for u, h in outline)


def vehicle(
    painter: Painter, rng: np.random.Generator, x: float, z: float, kind: str, yaw: float
) -> None:
    """Draws a vehicle whose middle stands at (x, z); yaw 0 drives away from the camera."""
    profile, width, label, window = _PROFILES[kind]
    outline = [(u, h) for u, h, _ in profile]
    half, length = width / 2, max(u for u, _ in outline)
    body = _Body(x=x, z=z, sine=math.sin(yaw), cosine=math.cos(yaw), length=length)
    one = painter.new_instance()
    paint = jitter(rng, _CAR_PAINTS[rng.integers(len(_CAR_PAINTS))], 0.2)
    if kind in LARGE and rng.random() < 0.6:
        paint = rng.uniform(0.15, 0.9, 3)
    dark, glass = (0.05, 0.05, 0.06), np.array([0.16, 0.19, 0.23]) * rng.uniform(0.6, 1.6)
    wide = 1.1 * half
    skirt = [(0, 0.02, -wide), (0, 0.02, wide), (length, 0.02, wide), (length, 0.02, -wide)]
    painter.world(body.place(skirt), dark, None)
    near = half if body.cosine * x - body.sine * z < 0 else -half
    painter.world(body.side(outline, -near), paint * 0.5, label, one)
    close = painter.view.focal / z > 7  # small shapes vanish in a vehicle far away
    if close:
        _wheels(painter, body, -near, kind, label, one)
    for i, ((u0, h0, pane), (u1, h1, _)) in enumerate(itertools.pairwise(profile)):
        face = body.place([(u0, h0, -half), (u0, h0, half), (u1, h1, half), (u1, h1, -half)])
        if not _faces_camera(painter.view.outline(face)):
            continue
        tilt = 1.0 if h0 == h1 else 0.72 + 0.4 * abs(u1 - u0) / length
        painter.world(face, paint, label, one, min(tilt, 1.2))
        if pane:
            middle = [sum(axis) / 4 for axis in zip(*face, strict=True)]
            inset = [
                [m + 0.86 * (c - m) for c, m in zip(corner, middle, strict=True)] for corner in face
            ]
            painter.world(inset, glass, None)
        if i in (0, len(profile) - 2) and close:
            _lamps(painter, body, u0, h0 + (h1 - h0) * 0.6, half, rear=i == 0)
    painter.world(body.side(outline, near), paint, label, one, 0.85)
    painter.world(body.side(window, near), glass, None)
    if close:
        _doors(painter, body, near, window, paint * 0.75)
        sill = [(0, 0.25), (0, 0.38), (length, 0.38), (length, 0.25)]
        painter.world(body.side(sill, near), dark, label, one)
        _wheels(painter, body, near, kind, label, one)


def _faces_camera(quad: list[tuple[float, float]]) -> bool:
    """Tells whether a projected quad is seen from outside, by its winding."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    return (cx - ax) * (dy - by) - (dx - bx) * (cy - ay) < 0


def _doors(
    painter: Painter,
    body: _Body,
    v: float,
    window: Sequence[tuple[float, float]],
    colour: Colour,
) -> None:
    """Draws the upright gaps between the doors and panes of one side."""
    top = max(h for _, h in window)
    left, right = min(u for u, _ in window), max(u for u, _ in window)
    for split in (1.1 + 1.3 * k for k in range(int(body.length / 1.3))):
        if left < split < right:
            ends = [(split, top / 2), (split + 0.09, top / 2), (split + 0.09, top), (split, top)]
            painter.world(body.side(ends, v), colour, None)


def _wheels(painter: Painter, body: _Body, v: float, kind: str, label: int, one: int) -> None:
    """Draws the two wheels of one side."""
    radius = 0.5 if kind in LARGE else 0.33
    for hub in (0.19 * body.length, 0.8 * body.length):
        tyre = ellipse(hub, radius, radius, radius, 10)
        cap = ellipse(hub, radius, radius * 0.55, radius * 0.55, 8)
        painter.world(body.side(tyre, v), (0.05, 0.05, 0.05), label, one)
        painter.world(body.side(cap, v), (0.4, 0.4, 0.42), None)


def _lamps(painter: Painter, body: _Body, u: float, h: float, half: float, *, rear: bool) -> None:
    """Draws the two lamps and the number plate of a vehicle's rear or front."""
    lamp = (0.75, 0.05, 0.04) if rear else (0.95, 0.93, 0.8)
    gain = 1.0 / max(0.35, float(painter.look.light.mean()))

    def plate(v: float, low: float, high: float, wide: float) -> list[_Point]:
        ends = ((v - wide, low), (v + wide, low), (v + wide, high), (v - wide, high))
        return body.place((u, h, v) for v, h in ends)

    for v in (-0.78 * half, 0.78 * half):
        painter.world(plate(v, h - 0.09, h + 0.09, 0.17), lamp, None, gain=gain)
    painter.world(plate(0.0, h - 0.24, h - 0.13, 0.25), (0.85, 0.85, 0.8), None)
