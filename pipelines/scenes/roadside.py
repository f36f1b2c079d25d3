"""The roadside of a procedural street scene: trees, hedges, walls, fences, posts."""

from functools import partial

import numpy as np
from numpy.random import Generator

from pipelines.scenes.buildings import WHOLE, Wall
from pipelines.scenes.camera import XY, Label, Painter, bar, ellipse, jitter


def tree(painter: Painter, rng: Generator, x: float, z: float, size: float) -> None:
    """Draws a tree, size metres high, or a bush where size is below 2."""
    view, look = painter.view, painter.look
    trunk = size * rng.uniform(0.25, 0.45) if size > 2 else 0.0
    if trunk:
        bark = jitter(rng, (0.3, 0.23, 0.17), 0.3)
        stem = bar(0, 0, rng.normal(0, 0.1), trunk * 1.5, 0.05 * size)
        painter.billboard(x, z, stem, bark, Label.VEGETATION)
    crown = (size - trunk) / 2
    wide = crown * rng.uniform(0.6, 1.1)
    count = int(np.clip(crown * view.focal / z * 0.8, 5, 60))
    turn, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    right = x + wide * 0.85 * reach * np.cos(turn)
    up = trunk + crown * (1 + 0.85 * reach * np.sin(turn))
    points = np.stack([right, up, np.full(count, z)], axis=1)
    points = np.array(sorted(points.tolist(), key=lambda point: point[1]))
    radius = view.focal / z * crown * rng.uniform(0.12, 0.4, count)
    leaf = jitter(rng, look.foliage, 0.3)
    # Leaves above catch the light, those below lie in the crown's own shade.
    gains = 0.55 + 0.6 * np.linspace(0, 1, count) + rng.uniform(-0.15, 0.15, count)
    fills = [painter.shade(leaf, z, gain) for gain in gains.tolist()]
    painter.discs(view.project(points), radius, fills, Label.VEGETATION)


def hedge(painter: Painter, rng: Generator, x: float, z: float, length: float) -> None:
    """Draws a row of bushes that runs away from the camera beside the road."""
    for step in np.arange(length, 0, -1.2):
        tree(painter, rng, x + rng.normal(0, 0.2), z + float(step), rng.uniform(1.0, 1.8))


def barrier(
    painter: Painter, rng: Generator, side: int, s: float, z0: float, z1: float, label: int
) -> None:
    """Draws a wall or a fence of posts and rails along the road from depth z0 to z1."""
    height = rng.uniform(0.8, 2.0)
    start, end = ((painter.view.beside(z, side * s), z) for z in (z0, z1))
    solid = label == Label.WALL
    colour = jitter(rng, (0.5, 0.48, 0.45) if solid else rng.uniform(0.15, 0.6, 3), 0.2)
    wall = Wall(painter, start, end)
    # A fence is labelled as a whole, gaps included, as annotators do.
    wall.solid(height, colour, label, 1.0 if solid else 0.55)
    if solid:
        wall.flat(WHOLE, np.array([[height * 0.93, height]]), colour * 1.25, 1.0)
        return
    posts = np.linspace(0, 1, max(2, min(40, int((z1 - z0) / 0.5))))
    thin = 0.06 / max(z1 - z0, 1)
    spans = np.stack([posts, posts + thin * 2], axis=1)
    wall.flat(spans, np.array([[0.0, height]]), colour * 1.3, 1.0)
    rails = np.array([[height * 0.4, height * 0.48], [height * 0.9, height]])
    wall.flat(WHOLE, rails, colour * 1.4, 1.0)


def pole(painter: Painter, rng: Generator, x: float, z: float, inward: int, kind: str) -> None:
    """Draws a post: kind is "lamp", "sign" or "light" (a traffic light); inward is -1 or 1."""
    grey = jitter(rng, (0.42, 0.43, 0.44), 0.3)
    draw = partial(painter.billboard, x, z)
    if kind == "lamp":
        high, arm = rng.uniform(5, 9), inward * rng.uniform(0.8, 2.5)
        draw(bar(0, 0, 0, high, 0.16), grey, Label.POLE)
        draw(bar(0, high, arm, high + 0.3, 0.1), grey, Label.POLE)
        draw(bar(arm, high + 0.3, arm * 1.35, high + 0.25, 0.18), grey, Label.POLE)
        return
    high = rng.uniform(2.1, 3.6)
    draw(bar(0, 0, 0, high, 0.11), grey, Label.POLE)
    if kind == "light":
        draw(_box(0.18, high - 0.1, high + 0.9), (0.07, 0.07, 0.07), Label.LIGHT)
        shining = int(rng.integers(3))
        for k, lamp in enumerate([(0.1, 0.9, 0.4), (1.0, 0.7, 0.1), (1.0, 0.12, 0.08)]):
            gain = 1.0 / float(painter.look.light.mean()) if k == shining else 0.25
            draw(ellipse(0, high + 0.1 + 0.3 * k, 0.12, 0.12, 8), lamp, None, gain=gain)
        return
    shape = int(rng.integers(4))
    paint = rng.choice([(0.75, 0.08, 0.08), (0.08, 0.2, 0.6), (0.85, 0.7, 0.1)])
    size = rng.uniform(0.28, 0.45)
    outline = [
        ellipse(0, high, size, size),
        ellipse(0, high, size, size, 4),
        [(-size, high - size * 0.8), (size, high - size * 0.8), (0, high + size)],
        _box(size, high - size * 1.3, high + size),
    ][shape]
    draw(outline, paint, Label.SIGN)
    inner = [(dx * 0.6, high + (h - high) * 0.6) for dx, h in outline]
    draw(inner, (0.9, 0.9, 0.9) if shape != 3 else paint * 0.8, None)


def _box(reach: float, low: float, high: float) -> list[XY]:
    return [(-reach, low), (reach, low), (reach, high), (-reach, high)]
