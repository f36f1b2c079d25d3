"""The buildings of a procedural street scene: upright walls, how facades look, whole houses."""

from dataclasses import dataclass

import numpy as np

from pipelines.scenes.camera import BUILDING, Colour, Painter, jitter

_WALL_PAINTS = np.array(
    [
        (0.62, 0.55, 0.45), (0.55, 0.3, 0.22), (0.7, 0.66, 0.6), (0.48, 0.46, 0.45),
        (0.72, 0.58, 0.36), (0.4, 0.26, 0.2), (0.58, 0.62, 0.66), (0.76, 0.72, 0.68),
        (0.35, 0.37, 0.4),
    ]
)  # fmt: skip


def wall_rects(
    start: np.ndarray, end: np.ndarray, spans: np.ndarray, levels: np.ndarray
) -> np.ndarray:
    """Return world quads [n, 4, 3] on an upright wall.

    spans [n, 2] are fractions of the way from start to end (each x, z), levels [n, 2] heights.
    """
    ground = start + spans[..., None] * (end - start)
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    quads = [
        np.stack([ground[:, i, 0], levels[:, j], ground[:, i, 1]], axis=-1) for i, j in corners
    ]
    return np.stack(quads, axis=1)


@dataclass(frozen=True, kw_only=True)
class Facade:
    """How one building looks; metres and colours in [0, 1]."""

    height: float
    storey: float
    bay: float
    paint: np.ndarray
    glass: np.ndarray
    frame: np.ndarray
    shop: np.ndarray | None
    bricks: bool
    pane: tuple[float, float]


def random_facade(rng: np.random.Generator, tall: float) -> Facade:
    """Draw a building's style; tall is the typical number of storeys."""
    storey = rng.uniform(2.8, 3.8)
    paint = jitter(rng, _WALL_PAINTS[rng.integers(len(_WALL_PAINTS))], 0.25)
    return Facade(
        height=storey * max(1, round(tall * rng.uniform(0.6, 1.5))) + rng.uniform(0.5, 1.5),
        storey=storey,
        bay=rng.uniform(1.8, 4.0),
        paint=paint,
        glass=jitter(rng, rng.choice([(0.12, 0.14, 0.18), (0.3, 0.36, 0.42)]), 0.3),
        frame=np.clip(paint * rng.uniform(0.55, 1.5), 0, 1),
        shop=jitter(rng, rng.uniform(0.1, 0.7, 3), 0.2) if rng.random() < 0.4 else None,
        bricks=bool(rng.random() < 0.6),
        pane=(rng.uniform(0.3, 0.75), rng.uniform(0.4, 0.75)),
    )


def wall(
    painter: Painter,
    rng: np.random.Generator,
    start: tuple[float, float],
    end: tuple[float, float],
    style: Facade,
    gain: float,
) -> None:
    """Draw one upright wall from start to end (each x, z in metres) with its windows."""
    a, b = np.array(start), np.array(end)
    whole = wall_rects(a, b, np.array([[0.0, 1.0]]), np.array([[0.0, style.height]]))[0]
    painter.world(whole.tolist(), style.paint, BUILDING, gain=gain)
    length = float(np.hypot(*(b - a)))
    bays, storeys = max(1, int(length / style.bay)), max(1, int(style.height / style.storey))
    depth = (a[1] + b[1]) / 2
    pixel = painter.view.focal / depth
    if style.bricks and pixel > 12:
        levels = np.arange(0.3, style.height, 0.45 if pixel > 30 else 0.9)
        bands = np.stack([levels, levels + 0.05], axis=1)
        flat(painter, a, b, np.tile([[0.0, 1.0]], (len(bands), 1)), bands, style.paint * 0.8, gain)
    if style.shop is not None:
        flat(painter, a, b, np.array([[0, 1]]), np.array([[0, style.storey]]), style.shop, gain)
    cornice = np.arange(1, storeys + 1) * style.storey
    if pixel > 8:
        bands = np.stack([cornice - 0.12, cornice + 0.1], axis=1)
        flat(painter, a, b, np.tile([[0.0, 1.0]], (storeys, 1)), bands, style.frame, gain)
    if pixel * style.bay * min(1.0, length / abs(b[0] - a[0] + 1e-6)) < 5 or bays * storeys > 400:
        return
    column, row = (grid.ravel() for grid in np.meshgrid(np.arange(bays), np.arange(storeys)))
    left = (column + 0.5 - style.pane[0] / 2) / bays
    low = (row + 0.55 - style.pane[1] / 2) * style.storey
    spans = np.stack([left, left + style.pane[0] / bays], axis=1)
    levels = np.stack([low, low + style.pane[1] * style.storey], axis=1)
    lit = rng.random(len(column)) < painter.look.lit_windows
    glow = rng.uniform(0.5, 1.4, len(column))
    if pixel > 10:
        rim = np.array([-0.12, 0.12])
        flat(painter, a, b, spans + rim / max(length, 1), levels + rim, style.frame, gain)
    flat(painter, a, b, spans[~lit], levels[~lit], style.glass, gain, glow[~lit])
    # A lit window shines by itself: the scene's light is divided out.
    lamp = np.array([1.0, 0.8, 0.5]) / np.maximum(painter.look.light, 0.2)
    flat(painter, a, b, spans[lit], levels[lit], lamp, 0.9, glow[lit])


def flat(
    painter: Painter,
    a: np.ndarray,
    b: np.ndarray,
    spans: np.ndarray,
    levels: np.ndarray,
    colour: Colour,
    gain: float,
    glow: np.ndarray | None = None,
) -> None:
    """Draw rectangles on a wall into the picture only: the wall's label stays."""
    if not len(spans):
        return
    quads = wall_rects(a, b, spans, levels)
    shapes = [list(map(tuple, shape)) for shape in painter.view.project(quads).tolist()]
    fills = [painter.shade(colour, (a[1] + b[1]) / 2, gain)] * len(quads)
    if glow is not None:
        tints = np.clip(np.array(fills) * glow[:, None], 0, 255).astype(int)
        fills = [tuple(tint) for tint in tints.tolist()]
    for shape, fill in zip(shapes, fills, strict=True):
        painter.pixels(shape, fill, None)


def building(
    painter: Painter,
    rng: np.random.Generator,
    side: int,
    s: float,
    z0: float,
    z1: float,
    tall: float,
) -> None:
    """Draw a building beside the road: its gable first, then the facade along the road."""
    view, style = painter.view, random_facade(rng, tall)
    x0, x1 = float(view.road_x(z0)) + side * s, float(view.road_x(z1)) + side * s
    sunny = 1.0 + 0.22 * painter.look.sun_side * -side * painter.look.shadow
    depth = rng.uniform(6, 12)
    if z0 > 2:
        wall(painter, rng, (x0, z0), (x0 + side * depth, z0), style, 2 - sunny)
    wall(painter, rng, (x0, z0), (x1, z1), style, sunny)
    if rng.random() < 0.6:
        rise, back = style.height + rng.uniform(1, 3), side * rng.uniform(2, 4)
        roof = jitter(rng, rng.choice([(0.45, 0.2, 0.14), (0.25, 0.25, 0.28)]), 0.2)
        corners = [(x0, style.height, z0), (x1, style.height, z1)]
        ridge = [(x1 + back, rise, z1), (x0 + back, rise, z0)]
        painter.world(corners + ridge, roof, BUILDING, gain=sunny)
        if z0 > 2:
            far = (x0 + 2 * back, style.height, z0)
            painter.world([corners[0], ridge[1], far], style.paint, BUILDING, gain=2 - sunny)
