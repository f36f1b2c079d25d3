"""What lines the road of a procedural street scene: trees, hedges, walls, fences, posts."""

import numpy as np

from pipelines.scenes.buildings import flat, wall_rects
from pipelines.scenes.camera import (
    FENCE,
    LIGHT,
    POLE,
    SIGN,
    VEGETATION,
    WALL,
    Painter,
    bar,
    ellipse,
    jitter,
)


def tree(painter: Painter, rng: np.random.Generator, x: float, z: float, size: float) -> None:
    """Draw a tree, size metres high, or a bush where size is below 2."""
    view, look = painter.view, painter.look
    trunk = size * rng.uniform(0.25, 0.45) if size > 2 else 0.0
    if trunk:
        bark = jitter(rng, (0.3, 0.23, 0.17), 0.3)
        painter.billboard(
            x, z, bar(0, 0, rng.normal(0, 0.1), trunk * 1.5, 0.05 * size), bark, VEGETATION
        )
    crown = (size - trunk) / 2
    wide = crown * rng.uniform(0.6, 1.1)
    count = int(np.clip(crown * view.focal / z * 0.8, 5, 60))
    turn, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    points = np.stack(
        [
            x + wide * 0.85 * reach * np.cos(turn),
            trunk + crown * (1 + 0.85 * reach * np.sin(turn)),
            np.full(count, z),
        ],
        axis=1,
    )
    points = np.array(sorted(points.tolist(), key=lambda point: point[1]))
    radius = view.focal / z * crown * rng.uniform(0.12, 0.4, count)
    leaf = jitter(rng, look.foliage, 0.3)
    # Leaves above catch the light, those below lie in the crown's own shade.
    gains = 0.55 + 0.6 * np.linspace(0, 1, count) + rng.uniform(-0.15, 0.15, count)
    fills = [painter.shade(leaf, z, gain) for gain in gains.tolist()]
    painter.discs(view.project(points), radius, fills, VEGETATION)


def hedge(painter: Painter, rng: np.random.Generator, x: float, z: float, length: float) -> None:
    """Draw a row of bushes that runs away from the camera beside the road."""
    for step in np.arange(length, 0, -1.2):
        tree(painter, rng, x + rng.normal(0, 0.2), z + float(step), rng.uniform(1.0, 1.8))


def barrier(
    painter: Painter,
    rng: np.random.Generator,
    side: int,
    s: float,
    z0: float,
    z1: float,
    label: int,
) -> None:
    """Draw a wall or a fence of posts and rails along the road from depth z0 to z1."""
    view, height = painter.view, rng.uniform(0.8, 2.0)
    a = np.array([float(view.road_x(z0)) + side * s, z0])
    b = np.array([float(view.road_x(z1)) + side * s, z1])
    colour = jitter(rng, (0.5, 0.48, 0.45) if label == WALL else rng.uniform(0.15, 0.6, 3), 0.2)
    quad = wall_rects(a, b, np.array([[0.0, 1.0]]), np.array([[0.0, height]]))[0]
    # A fence is labelled as a whole, gaps included, as annotators do.
    painter.world(quad.tolist(), colour, label, gain=0.55 if label == FENCE else 1.0)
    if label == WALL:
        cap = np.array([[height * 0.93, height]])
        flat(painter, a, b, np.array([[0.0, 1.0]]), cap, colour * 1.25, 1.0)
        return
    posts = np.linspace(0, 1, max(2, min(40, int((z1 - z0) / 0.5))))
    thin = 0.06 / max(z1 - z0, 1)
    spans = np.stack([posts, posts + thin * 2], axis=1)
    flat(painter, a, b, spans, np.tile([[0.0, height]], (len(posts), 1)), colour * 1.3, 1.0)
    rails = np.array([[height * 0.4, height * 0.48], [height * 0.9, height]])
    flat(painter, a, b, np.tile([[0.0, 1.0]], (2, 1)), rails, colour * 1.4, 1.0)


def pole(
    painter: Painter, rng: np.random.Generator, x: float, z: float, inward: int, kind: str
) -> None:
    """Draw a post: kind is "lamp", "sign" or "light" (a traffic light); inward is -1 or 1."""
    grey = jitter(rng, (0.42, 0.43, 0.44), 0.3)
    if kind == "lamp":
        high, arm = rng.uniform(5, 9), inward * rng.uniform(0.8, 2.5)
        painter.billboard(x, z, bar(0, 0, 0, high, 0.16), grey, POLE)
        painter.billboard(x, z, bar(0, high, arm, high + 0.3, 0.1), grey, POLE)
        painter.billboard(x, z, bar(arm, high + 0.3, arm * 1.35, high + 0.25, 0.18), grey, POLE)
        return
    high = rng.uniform(2.1, 3.6)
    painter.billboard(x, z, bar(0, 0, 0, high, 0.11), grey, POLE)
    if kind == "light":
        box = [(-0.18, high - 0.1), (0.18, high - 0.1), (0.18, high + 0.9), (-0.18, high + 0.9)]
        painter.billboard(x, z, box, (0.07, 0.07, 0.07), LIGHT)
        shining = int(rng.integers(3))
        for k, lamp in enumerate([(0.1, 0.9, 0.4), (1.0, 0.7, 0.1), (1.0, 0.12, 0.08)]):
            gain = 1.0 / float(painter.look.light.mean()) if k == shining else 0.25
            painter.billboard(
                x, z, ellipse(0, high + 0.1 + 0.3 * k, 0.12, 0.12, 8), lamp, None, gain=gain
            )
        return
    shape, paint = (
        int(rng.integers(4)),
        rng.choice([(0.75, 0.08, 0.08), (0.08, 0.2, 0.6), (0.85, 0.7, 0.1)]),
    )
    size = rng.uniform(0.28, 0.45)
    outlines = [
        ellipse(0, high, size, size),
        ellipse(0, high, size, size, 4),
        [(-size, high - size * 0.8), (size, high - size * 0.8), (0, high + size)],
        [
            (-size, high - size * 1.3),
            (size, high - size * 1.3),
            (size, high + size),
            (-size, high + size),
        ],
    ]
    painter.billboard(x, z, outlines[shape], paint, SIGN)
    inner = [(dx * 0.6, high + (h - high) * 0.6) for dx, h in outlines[shape]]
    painter.billboard(x, z, inner, (0.9, 0.9, 0.9) if shape != 3 else paint * 0.8, None)
