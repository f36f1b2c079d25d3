"""The buildings of a procedural street scene: upright walls, how facades look, whole houses."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.scenes.camera import XY, Colour, Label, Painter, jitter

WHOLE = np.array([[0.0, 1.0]])  # the span from one end of a wall to the other

_WALL_PAINTS = np.array(
    [
        (0.62, 0.55, 0.45), (0.55, 0.3, 0.22), (0.7, 0.66, 0.6), (0.48, 0.46, 0.45),
        (0.72, 0.58, 0.36), (0.4, 0.26, 0.2), (0.58, 0.62, 0.66), (0.76, 0.72, 0.68),
        (0.35, 0.37, 0.4),
    ]
)  # fmt: skip
_GLASS = ((0.12, 0.14, 0.18), (0.3, 0.36, 0.42))
_ROOFS = ((0.45, 0.2, 0.14), (0.25, 0.25, 0.28))


class Wall:
    """An upright wall from `start` to `end` (each x, z in metres).

    What lies on it is given by spans [n or 1, 2], fractions of the way from start to end, and by
    levels [n or 1, 2], heights in metres.
    """

    def __init__(self, painter: Painter, start: XY, end: XY) -> None:
        self.painter, self.start, self.end = painter, np.array(start), np.array(end)
        self.depth = (self.start[1] + self.end[1]) / 2

    def solid(self, height: float, colour: Colour, label: int, gain: float) -> None:
        """Draws the wall itself, with its label."""
        (whole,) = self._quads(WHOLE, np.array([[0.0, height]]))
        self.painter.world(whole.tolist(), colour, label, gain=gain)

    def flat(
        self,
        spans: np.ndarray,
        levels: np.ndarray,
        colour: Colour,
        gain: float,
        glow: np.ndarray | None = None,
    ) -> None:
        """Draws rectangles into the picture only: the wall's label stays."""
        quads = self._quads(spans, levels)
        shapes = [list(map(tuple, quad)) for quad in self.painter.view.project(quads).tolist()]
        fills = [self.painter.shade(colour, self.depth, gain)] * len(quads)
        if glow is not None and len(quads):
            tints = np.clip(np.array(fills) * glow[:, None], 0, 255).astype(int)
            fills = [tuple(tint) for tint in tints.tolist()]
        for shape, fill in zip(shapes, fills, strict=True):
            self.painter.pixels(shape, fill, None)

    def _quads(self, spans: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Returns rectangles in the world, [n, 4, 3]."""
        spans, levels = np.broadcast_arrays(spans, levels)
        ground = self.start + spans[..., None] * (self.end - self.start)
        corners = [
            np.stack([ground[:, i, 0], levels[:, j], ground[:, i, 1]], axis=-1)
            for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        return np.stack(corners, axis=1)


@dataclass(frozen=True, kw_only=True)
class Facade:
    """The look of one building; metres and colours in [0, 1]."""

    height: float
    storey: float
    bay: float
    paint: np.ndarray
    glass: np.ndarray
    frame: np.ndarray
    shop: np.ndarray | None
    bricks: bool
    pane: XY


def random_facade(rng: Generator, tall: float) -> Facade:
    """Draws a building's style; tall is the typical number of storeys."""
    storey = rng.uniform(2.8, 3.8)
    paint = jitter(rng, _WALL_PAINTS[rng.integers(len(_WALL_PAINTS))], 0.25)
    return Facade(
        height=storey * max(1, round(tall * rng.uniform(0.6, 1.5))) + rng.uniform(0.5, 1.5),
        storey=storey,
        bay=rng.uniform(1.8, 4.0),
        paint=paint,
        glass=jitter(rng, rng.choice(_GLASS), 0.3),
        frame=np.clip(paint * rng.uniform(0.55, 1.5), 0, 1),
        shop=jitter(rng, rng.uniform(0.1, 0.7, 3), 0.2) if rng.random() < 0.4 else None,
        bricks=bool(rng.random() < 0.6),
        pane=(rng.uniform(0.3, 0.75), rng.uniform(0.4, 0.75)),
    )


def facade(
    painter: Painter, rng: Generator, start: XY, end: XY, style: Facade, gain: float
) -> None:
    """Draws one wall of a building with its windows, where these are large enough to be seen."""
    wall = Wall(painter, start, end)
    wall.solid(style.height, style.paint, Label.BUILDING, gain)
    along = wall.end - wall.start
    length = float(np.hypot(*along))
    bays, storeys = max(1, int(length / style.bay)), max(1, int(style.height / style.storey))
    pixel = painter.view.focal / wall.depth
    if style.bricks and pixel > 12:
        levels = np.arange(0.3, style.height, 0.45 if pixel > 30 else 0.9)
        wall.flat(WHOLE, np.stack([levels, levels + 0.05], axis=1), style.paint * 0.8, gain)
    if style.shop is not None:
        wall.flat(WHOLE, np.array([[0, style.storey]]), style.shop, gain)
    cornice = np.arange(1, storeys + 1) * style.storey
    if pixel > 8:
        wall.flat(WHOLE, np.stack([cornice - 0.12, cornice + 0.1], axis=1), style.frame, gain)
    if pixel * style.bay * min(1.0, length / abs(along[0] + 1e-6)) < 5 or bays * storeys > 400:
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
        wall.flat(spans + rim / max(length, 1), levels + rim, style.frame, gain)
    wall.flat(spans[~lit], levels[~lit], style.glass, gain, glow[~lit])
    # A lit window shines by itself: the scene's light is divided out.
    lamp = np.array([1.0, 0.8, 0.5]) / np.maximum(painter.look.light, 0.2)
    wall.flat(spans[lit], levels[lit], lamp, 0.9, glow[lit])


def building(
    painter: Painter, rng: Generator, side: int, s: float, z0: float, z1: float, tall: float
) -> None:
    """Draws a building beside the road: its gable first, then the facade along the road."""
    view, style = painter.view, random_facade(rng, tall)
    x0, x1 = view.beside(z0, side * s), view.beside(z1, side * s)
    sunny = 1.0 + 0.22 * painter.look.sun_side * -side * painter.look.shadow
    depth = rng.uniform(6, 12)
    if z0 > 2:
        facade(painter, rng, (x0, z0), (x0 + side * depth, z0), style, 2 - sunny)
    facade(painter, rng, (x0, z0), (x1, z1), style, sunny)
    if rng.random() < 0.6:
        rise, back = style.height + rng.uniform(1, 3), side * rng.uniform(2, 4)
        roof = jitter(rng, rng.choice(_ROOFS), 0.2)
        corners = [(x0, style.height, z0), (x1, style.height, z1)]
        ridge = [(x1 + back, rise, z1), (x0 + back, rise, z0)]
        painter.world(corners + ridge, roof, Label.BUILDING, gain=sunny)
        if z0 > 2:
            far = (x0 + 2 * back, style.height, z0)
            painter.world([corners[0], ridge[1], far], style.paint, Label.BUILDING, gain=2 - sunny)
