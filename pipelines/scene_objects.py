"""Things that stand in a procedural street scene: buildings, trees, vehicles, people, poles.

Every function draws one thing through a `Painter`, far things first, so that near ones cover them.
World coordinates are metres: x to the right, h up from the ground, z away from the camera. Roads
have coordinates of their own: s metres to the right of the centre line at depth z.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = Sequence[float]  # red, green, blue in [0, 1]

IGNORED, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 0, 7, 8, 11, 12, 13, 17
LIGHT, SIGN, VEGETATION, TERRAIN, SKY = 19, 20, 21, 22, 23
PERSON, RIDER, CAR, TRUCK, BUS, BICYCLE = 24, 25, 26, 27, 28, 33

# One integer mask carries both answers, the label in its lowest byte, so that everything is
# rasterised twice, not three times.
INSTANCE_UNIT = 256

_CAR_PAINTS = np.array(
    [
        (0.08, 0.08, 0.09), (0.75, 0.76, 0.78), (0.45, 0.47, 0.5), (0.9, 0.9, 0.88),
        (0.55, 0.07, 0.07), (0.1, 0.18, 0.42), (0.12, 0.3, 0.2), (0.6, 0.5, 0.15),
        (0.25, 0.2, 0.17),
    ]
)  # fmt: skip
_WALL_PAINTS = np.array(
    [
        (0.62, 0.55, 0.45), (0.55, 0.3, 0.22), (0.7, 0.66, 0.6), (0.48, 0.46, 0.45),
        (0.72, 0.58, 0.36), (0.4, 0.26, 0.2), (0.58, 0.62, 0.66), (0.76, 0.72, 0.68),
        (0.35, 0.37, 0.4),
    ]
)  # fmt: skip
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


@dataclass(frozen=True, kw_only=True)
class Look:
    """Light and air of one scene: colours in [0, 1], distances in metres."""

    light: np.ndarray
    haze: np.ndarray
    sky_top: np.ndarray
    visibility: float
    sun_side: float
    shadow: float
    lit_windows: float
    cloud: float
    foliage: np.ndarray
    blur: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class View:
    """A camera above a road that bends: the projection of the whole scene."""

    height: int
    width: int
    focal: float
    camera_height: float
    horizon: float
    centre: float
    roll: float
    heading: float
    bend: float
    shift: float

    def road_x(self, z: np.ndarray | float) -> np.ndarray | float:
        """Return the x in metres of the road's centre line at depth z (float64, any shape)."""
        return self.shift + self.heading * z + 0.5 * self.bend * z * z

    def road_yaw(self, z: float) -> float:
        """Return the road's direction at depth z in radians (0 = straight ahead)."""
        return math.atan(self.heading + self.bend * z)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points [..., 3] (x, h, z in metres) to pixels [..., 2] (float64)."""
        points = np.asarray(points, dtype=np.float64)
        z = np.maximum(points[..., 2], 0.6)
        u = self.focal * points[..., 0] / z
        v = self.focal * (self.camera_height - points[..., 1]) / z
        x = self.centre + u - self.roll * v
        y = self.horizon + v + self.roll * u
        return np.clip(np.stack([x, y], axis=-1), -4 * self.width, 5 * self.width)

    def outline(self, points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """Project a few points as `project` does: plain Python is faster on short lists."""
        low, high, shape = -4.0 * self.width, 5.0 * self.width, []
        for x, h, z in points:
            scale = self.focal / max(z, 0.6)
            u, v = scale * x, scale * (self.camera_height - h)
            px, py = self.centre + u - self.roll * v, self.horizon + v + self.roll * u
            shape.append((min(max(px, low), high), min(max(py, low), high)))
        return shape


class Painter:
    """Rasterises polygons into a picture and, at the same time, into its exact label mask."""

    def __init__(self, view: View, look: Look, picture: Image.Image, mask: Image.Image) -> None:
        self.view, self.look, self.picture, self.mask = view, look, picture, mask
        self._picture_draw = ImageDraw.Draw(picture)
        self._mask_draw = ImageDraw.Draw(mask)
        self._light, self._haze = look.light.tolist(), look.haze.tolist()
        self.instances = 0

    def new_instance(self) -> int:
        """Return the next unused instance id (1, 2, …)."""
        self.instances += 1
        return self.instances

    def shade(self, colour: Colour, z: float, gain: float = 1.0) -> tuple[int, int, int]:
        """Return 8-bit RGB of a colour in [0, 1] under the scene's light and air at depth z."""
        clear = math.exp(-z / self.look.visibility)
        channels = colour.tolist() if isinstance(colour, np.ndarray) else colour
        red, green, blue = (
            min(255, int(255 * (clear * min(c * light * gain, 1.0) + (1 - clear) * haze) + 0.5))
            for c, light, haze in zip(channels, self._light, self._haze, strict=True)
        )
        return red, green, blue

    def pixels(
        self,
        shape: list[tuple[float, float]],
        fill: tuple[int, int, int],
        label: int | None,
        instance: int = 0,
    ) -> None:
        """Fill one polygon given in pixels; without a label only the picture changes."""
        xs = [x for x, _ in shape]
        if max(xs) < 0 or min(xs) > self.view.width:
            return
        self._picture_draw.polygon(shape, fill=fill)
        if label is not None:
            self._mask_draw.polygon(shape, fill=label + INSTANCE_UNIT * instance)

    def world(
        self,
        points: Sequence[Sequence[float]],
        colour: Colour,
        label: int | None,
        instance: int = 0,
        gain: float = 1.0,
    ) -> None:
        """Fill one polygon of (x, h, z) in metres, shaded at its mean depth."""
        depth = sum(point[2] for point in points) / len(points)
        self.pixels(self.view.outline(points), self.shade(colour, depth, gain), label, instance)

    def billboard(
        self,
        x: float,
        z: float,
        outline: Sequence[tuple[float, float]],
        colour: Colour,
        label: int | None,
        instance: int = 0,
        gain: float = 1.0,
    ) -> None:
        """Fill a flat shape that faces the camera: outline is (metres right of x, metres up)."""
        self.world([(x + dx, h, z) for dx, h in outline], colour, label, instance, gain)

    def discs(
        self, xy: np.ndarray, radius: np.ndarray, fills: Sequence[tuple[int, int, int]], label: int
    ) -> None:
        """Fill discs at pixel centres [n, 2] with pixel radii [n], one colour each."""
        boxes = np.concatenate([xy - radius[:, None], xy + radius[:, None]], axis=1).tolist()
        for box, fill in zip(boxes, fills, strict=True):
            self._picture_draw.ellipse(box, fill=fill)
            self._mask_draw.ellipse(box, fill=label)


def ellipse(
    x: float, h: float, rx: float, ry: float, corners: int = 12
) -> list[tuple[float, float]]:
    """Return an ellipse as an outline of (x, h) corners, metres."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [(x + rx * math.cos(t), h + ry * math.sin(t)) for t in turns]


def _bar(x0: float, h0: float, x1: float, h1: float, w: float) -> list[tuple[float, float]]:
    """Return a limb or tube from (x0, h0) to (x1, h1), w wide, as an outline in metres."""
    length = math.hypot(x1 - x0, h1 - h0) or 1.0
    nx, nh = -(h1 - h0) / length * w / 2, (x1 - x0) / length * w / 2
    return [(x0 + nx, h0 + nh), (x1 + nx, h1 + nh), (x1 - nx, h1 - nh), (x0 - nx, h0 - nh)]


def jitter(rng: np.random.Generator, colour: Colour, spread: float) -> np.ndarray:
    """Return the colour, randomly lighter or darker and slightly tinted."""
    gain = 1 + spread * rng.uniform(-1, 1) + 0.3 * spread * rng.uniform(-1, 1, 3)
    return np.clip(np.asarray(colour) * gain, 0.02, 1.0)


def _wall_rects(
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
    whole = _wall_rects(a, b, np.array([[0.0, 1.0]]), np.array([[0.0, style.height]]))[0]
    painter.world(whole.tolist(), style.paint, BUILDING, gain=gain)
    length = float(np.hypot(*(b - a)))
    bays, storeys = max(1, int(length / style.bay)), max(1, int(style.height / style.storey))
    depth = (a[1] + b[1]) / 2
    pixel = painter.view.focal / depth
    if style.bricks and pixel > 12:
        levels = np.arange(0.3, style.height, 0.45 if pixel > 30 else 0.9)
        bands = np.stack([levels, levels + 0.05], axis=1)
        _flat(painter, a, b, np.tile([[0.0, 1.0]], (len(bands), 1)), bands, style.paint * 0.8, gain)
    if style.shop is not None:
        _flat(painter, a, b, np.array([[0, 1]]), np.array([[0, style.storey]]), style.shop, gain)
    cornice = np.arange(1, storeys + 1) * style.storey
    if pixel > 8:
        bands = np.stack([cornice - 0.12, cornice + 0.1], axis=1)
        _flat(painter, a, b, np.tile([[0.0, 1.0]], (storeys, 1)), bands, style.frame, gain)
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
        _flat(painter, a, b, spans + rim / max(length, 1), levels + rim, style.frame, gain)
    _flat(painter, a, b, spans[~lit], levels[~lit], style.glass, gain, glow[~lit])
    # A lit window shines by itself: the scene's light is divided out.
    lamp = np.array([1.0, 0.8, 0.5]) / np.maximum(painter.look.light, 0.2)
    _flat(painter, a, b, spans[lit], levels[lit], lamp, 0.9, glow[lit])


def _flat(
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
    quads = _wall_rects(a, b, spans, levels)
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


def tree(painter: Painter, rng: np.random.Generator, x: float, z: float, size: float) -> None:
    """Draw a tree, size metres high, or a bush where size is below 2."""
    view, look = painter.view, painter.look
    trunk = size * rng.uniform(0.25, 0.45) if size > 2 else 0.0
    if trunk:
        bark = jitter(rng, (0.3, 0.23, 0.17), 0.3)
        painter.billboard(
            x, z, _bar(0, 0, rng.normal(0, 0.1), trunk * 1.5, 0.05 * size), bark, VEGETATION
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
    quad = _wall_rects(a, b, np.array([[0.0, 1.0]]), np.array([[0.0, height]]))[0]
    # A fence is labelled as a whole, gaps included, as annotators do.
    painter.world(quad.tolist(), colour, label, gain=0.55 if label == FENCE else 1.0)
    if label == WALL:
        cap = np.array([[height * 0.93, height]])
        _flat(painter, a, b, np.array([[0.0, 1.0]]), cap, colour * 1.25, 1.0)
        return
    posts = np.linspace(0, 1, max(2, min(40, int((z1 - z0) / 0.5))))
    thin = 0.06 / max(z1 - z0, 1)
    spans = np.stack([posts, posts + thin * 2], axis=1)
    _flat(painter, a, b, spans, np.tile([[0.0, height]], (len(posts), 1)), colour * 1.3, 1.0)
    rails = np.array([[height * 0.4, height * 0.48], [height * 0.9, height]])
    _flat(painter, a, b, np.tile([[0.0, 1.0]], (2, 1)), rails, colour * 1.4, 1.0)


def pole(
    painter: Painter, rng: np.random.Generator, x: float, z: float, inward: int, kind: str
) -> None:
    """Draw a post: kind is "lamp", "sign" or "light" (a traffic light); inward is -1 or 1."""
    grey = jitter(rng, (0.42, 0.43, 0.44), 0.3)
    if kind == "lamp":
        high, arm = rng.uniform(5, 9), inward * rng.uniform(0.8, 2.5)
        painter.billboard(x, z, _bar(0, 0, 0, high, 0.16), grey, POLE)
        painter.billboard(x, z, _bar(0, high, arm, high + 0.3, 0.1), grey, POLE)
        painter.billboard(x, z, _bar(arm, high + 0.3, arm * 1.35, high + 0.25, 0.18), grey, POLE)
        return
    high = rng.uniform(2.1, 3.6)
    painter.billboard(x, z, _bar(0, 0, 0, high, 0.11), grey, POLE)
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


def person(painter: Painter, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a pedestrian, walking or standing."""
    k, one = rng.uniform(0.8, 1.1), painter.new_instance()
    coat, trousers = rng.uniform(0.05, 0.85, 3), jitter(rng, (0.15, 0.16, 0.22), 0.6)
    stride, swing = rng.uniform(0, 0.32), rng.uniform(-0.25, 0.25)
    for foot in (-stride, stride):
        leg = _bar(foot * 0.3, 0.9 * k, foot, 0.03, 0.17)
        painter.billboard(x, z, leg, trousers, PERSON, one, 0.9 if foot < 0 else 1.0)
    torso = [
        (-0.2, 0.85 * k),
        (0.2, 0.85 * k),
        (0.23, 1.42 * k),
        (0.1, 1.5 * k),
        (-0.1, 1.5 * k),
        (-0.23, 1.42 * k),
    ]
    painter.billboard(x, z, torso, coat, PERSON, one)
    for arm in (-1, 1):
        limb = _bar(0.22 * arm, 1.4 * k, 0.27 * arm + swing * arm, 0.85 * k, 0.11)
        painter.billboard(x, z, limb, coat, PERSON, one, 0.85)
    skin, hair = _SKIN[rng.integers(3)], jitter(rng, (0.2, 0.14, 0.09), 0.6)
    painter.billboard(x, z, ellipse(0, 1.63 * k, 0.11, 0.14), skin, PERSON, one)
    painter.billboard(x, z, ellipse(0, 1.7 * k, 0.12, 0.09), hair, PERSON, one)


def bicycle(painter: Painter, rng: np.random.Generator, x: float, z: float) -> float:
    """Draw a bicycle; return how far it is seen from the side (0 not, -1 or 1 wholly)."""
    squeeze = rng.uniform(0.25, 1.0) * rng.choice([-1, 1])
    one, paint = painter.new_instance(), rng.uniform(0.05, 0.7, 3)
    for hub in (-0.52, 0.52):
        rim = ellipse(hub * squeeze, 0.34, 0.34 * abs(squeeze) + 0.03, 0.34, 14)
        painter.billboard(x, z, rim, (0.06, 0.06, 0.06), BICYCLE, one)
        # The wheel is labelled as a disc; through its spokes one sees what is behind, darkened.
        hole = ellipse(hub * squeeze, 0.34, 0.27 * abs(squeeze), 0.27, 14)
        painter.billboard(x, z, hole, (0.27, 0.27, 0.27), None)
    joints = [(-0.52, 0.34), (-0.2, 0.85), (0.4, 0.88), (0.52, 0.34), (0.45, 1.02), (-0.05, 0.36)]
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (5, 1), (5, 2), (0, 5)):
        (x0, h0), (x1, h1) = joints[i], joints[j]
        painter.billboard(x, z, _bar(x0 * squeeze, h0, x1 * squeeze, h1, 0.07), paint, BICYCLE, one)
    return squeeze


def cyclist(painter: Painter, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a bicycle with its rider, who is an object of its own."""
    squeeze = bicycle(painter, rng, x, z)
    rider, coat = painter.new_instance(), rng.uniform(0.05, 0.9, 3)
    trousers, lean = jitter(rng, (0.14, 0.15, 0.2), 0.6), rng.uniform(0.05, 0.3) * squeeze
    for knee in (0.15, 0.3):
        painter.billboard(
            x, z, _bar(-0.2 * squeeze, 0.95, knee * squeeze, 0.72, 0.17), trousers, RIDER, rider
        )
        painter.billboard(
            x,
            z,
            _bar(knee * squeeze, 0.72, 0.05 * squeeze, 0.25, 0.14),
            trousers,
            RIDER,
            rider,
            0.9,
        )
    painter.billboard(x, z, _bar(-0.2 * squeeze, 0.88, lean, 1.45, 0.38), coat, RIDER, rider)
    painter.billboard(x, z, _bar(lean, 1.38, 0.42 * squeeze, 1.02, 0.11), coat, RIDER, rider, 0.85)
    painter.billboard(
        x, z, ellipse(lean * 1.3, 1.6, 0.11, 0.14), _SKIN[rng.integers(3)], RIDER, rider
    )
    painter.billboard(
        x, z, ellipse(lean * 1.3, 1.67, 0.13, 0.1), rng.uniform(0.05, 0.9, 3), RIDER, rider
    )


@dataclass(frozen=True, kw_only=True)
class _Body:
    """A vehicle's own coordinates: along from the rear, up, to the right of its middle; metres."""

    x: float
    z: float
    sine: float
    cosine: float
    length: float

    def place(
        self, points: Sequence[tuple[float, float, float]]
    ) -> list[tuple[float, float, float]]:
        """Return the points in the world."""
        middle, sine, cosine = self.length / 2, self.sine, self.cosine
        return [
            (
                self.x + (u - middle) * sine + v * cosine,
                h,
                self.z + (u - middle) * cosine - v * sine,
            )
            for u, h, v in points
        ]


def vehicle(
    painter: Painter, rng: np.random.Generator, kind: str, x: float, z: float, yaw: float
) -> None:
    """Draw a vehicle whose middle stands at (x, z); yaw 0 drives away from the camera."""
    profile, width, label, window = _PROFILES[kind]
    body = _Body(
        x=x, z=z, sine=math.sin(yaw), cosine=math.cos(yaw), length=max(p[0] for p in profile)
    )
    one, paint = (
        painter.new_instance(),
        jitter(rng, _CAR_PAINTS[rng.integers(len(_CAR_PAINTS))], 0.2),
    )
    if kind in ("bus", "truck") and rng.random() < 0.6:
        paint = rng.uniform(0.15, 0.9, 3)
    half, length = width / 2, body.length
    dark, glass = (0.05, 0.05, 0.06), np.array([0.16, 0.19, 0.23]) * rng.uniform(0.6, 1.6)
    wide = 1.1 * half
    skirt = [(0, 0.02, -wide), (0, 0.02, wide), (length, 0.02, wide), (length, 0.02, -wide)]
    painter.world(body.place(skirt), dark, None)
    near = half if body.cosine * x - body.sine * z < 0 else -half
    painter.world(body.place([(u, h, -near) for u, h, _ in profile]), paint * 0.5, label, one)
    close = painter.view.focal / z > 7  # small shapes vanish in a vehicle far away
    if close:
        _wheels(painter, body, -near, kind, label, one)
    for i, ((u0, h0, pane), (u1, h1, _)) in enumerate(itertools.pairwise(profile)):
        corners = [(u0, h0, -half), (u0, h0, half), (u1, h1, half), (u1, h1, -half)]
        face = body.place(corners)
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
    painter.world(body.place([(u, h, near) for u, h, _ in profile]), paint, label, one, 0.85)
    painter.world(body.place([(u, h, near) for u, h in window]), glass, None)
    if close:
        _doors(painter, body, near, window, paint * 0.75)
        sill = [(0, 0.25, near), (0, 0.38, near), (length, 0.38, near), (length, 0.25, near)]
        painter.world(body.place(sill), dark, label, one)
        _wheels(painter, body, near, kind, label, one)


def _faces_camera(quad: list[tuple[float, float]]) -> bool:
    """Say whether a projected quad is seen from outside, by its winding."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    return (cx - ax) * (dy - by) - (dx - bx) * (cy - ay) < 0


def _doors(
    painter: Painter,
    body: _Body,
    v: float,
    window: Sequence[tuple[float, float]],
    colour: Colour,
) -> None:
    """Draw the upright gaps between the doors and panes of one side."""
    top = max(h for _, h in window)
    left, right = min(u for u, _ in window), max(u for u, _ in window)
    for split in (1.1 + 1.3 * k for k in range(int(body.length / 1.3))):
        if left < split < right:
            ends = [(split, top / 2), (split + 0.09, top / 2), (split + 0.09, top), (split, top)]
            painter.world(body.place([(u, h, v) for u, h in ends]), colour, None)


def _wheels(painter: Painter, body: _Body, v: float, kind: str, label: int, one: int) -> None:
    """Draw the two wheels of one side."""
    radius = 0.5 if kind in ("bus", "truck") else 0.33
    for hub in (0.19 * body.length, 0.8 * body.length):
        tyre = [(u, h, v) for u, h in ellipse(hub, radius, radius, radius, 10)]
        painter.world(body.place(tyre), (0.05, 0.05, 0.05), label, one)
        cap = [(u, h, v) for u, h in ellipse(hub, radius, radius * 0.55, radius * 0.55, 8)]
        painter.world(body.place(cap), (0.4, 0.4, 0.42), None)


def _lamps(painter: Painter, body: _Body, u: float, h: float, half: float, *, rear: bool) -> None:
    """Draw the two lamps and the number plate of a vehicle's rear or front."""
    lamp = (0.75, 0.05, 0.04) if rear else (0.95, 0.93, 0.8)
    gain = 1.0 / max(0.35, float(painter.look.light.mean()))

    def plate(v: float, low: float, high: float, wide: float) -> list[tuple[float, float, float]]:
        return body.place(
            [(u, low, v - wide), (u, low, v + wide), (u, high, v + wide), (u, high, v - wide)]
        )

    for v in (-0.78 * half, 0.78 * half):
        painter.world(plate(v, h - 0.09, h + 0.09, 0.17), lamp, None, gain=gain)
    painter.world(plate(0.0, h - 0.24, h - 0.13, 0.25), (0.85, 0.85, 0.8), None)
