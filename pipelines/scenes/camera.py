"""The camera of a procedural street scene: its view, its light, and the painter behind both.

Everything is drawn through a `Painter`, far things first, so that near ones cover them. World
coordinates are metres: x to the right, h up from the ground, z away from the camera. Roads have
coordinates of their own: s metres to the right of the centre line at depth z.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

Colour = Sequence[float] | np.ndarray  # red, green, blue in [0, 1]
XY = tuple[float, float]


class Label(IntEnum):
    """Those of Cityscapes' label ids that are drawn."""

    IGNORED, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 0, 7, 8, 11, 12, 13, 17
    LIGHT, SIGN, VEGETATION, TERRAIN, SKY = 19, 20, 21, 22, 23
    PERSON, RIDER, CAR, TRUCK, BUS, BICYCLE = 24, 25, 26, 27, 28, 33


COUNTABLE_LABELS = (24, 25, 26, 27, 28, 33)


_FOLIAGE = (
    (0.2, 0.34, 0.12), (0.28, 0.38, 0.16), (0.16, 0.28, 0.18), (0.45, 0.38, 0.12), (0.5, 0.26, 0.1),
)  # fmt: skip


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
        """Returns the x in metres of the road's centre line at depth z (float64, any shape)."""
        return self.shift + self.heading * z + 0.5 * self.bend * z * z

    def road_yaw(self, z: float) -> float:
        """Returns the road's direction at depth z in radians (0 = straight ahead)."""
        return math.atan(self.heading + self.bend * z)

    def beside(self, z: float, s: float) -> float:
        """Returns the x in metres of what stands s metres to the right of the centre line."""
        return float(self.road_x(z)) + s

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects world points [..., 3] (x, h, z in metres) to pixels [..., 2] (float64)."""
        points = np.asarray(points, dtype=np.float64)
        z = np.maximum(points[..., 2], 0.6)
        u = self.focal * points[..., 0] / z
        v = self.focal * (self.camera_height - points[..., 1]) / z
        x = self.centre + u - self.roll * v
        y = self.horizon + v + self.roll * u
        return np.clip(np.stack([x, y], axis=-1), -4 * self.width, 5 * self.width)

    def outline(self, points: Sequence[Sequence[float]]) -> list[XY]:
        """Projects a few points as `project` does: plain Python is faster on short lists."""
        low, high, shape = -4.0 * self.width, 5.0 * self.width, []
        for x, h, z in points:
            scale = self.focal / max(z, 0.6)
            u, v = scale * x, scale * (self.camera_height - h)
            px, py = self.centre + u - self.roll * v, self.horizon + v + self.roll * u
            shape.append((min(max(px, low), high), min(max(py, low), high)))
        return shape


def random_look(rng: Generator) -> Look:
    """Draws the light: day, overcast, dusk or haze."""
    mood = rng.choice(["day", "overcast", "dusk", "haze"], p=[0.4, 0.27, 0.15, 0.18])
    light, haze, top, visibility, shadow, lit = {
        "day": ((1.05, 1.02, 0.96), (0.78, 0.85, 0.93), (0.25, 0.48, 0.85), 420, 1.0, 0.02),
        "overcast": ((0.82, 0.84, 0.87), (0.8, 0.82, 0.84), (0.68, 0.71, 0.75), 300, 0.15, 0.06),
        "dusk": ((0.5, 0.42, 0.44), (0.72, 0.48, 0.4), (0.2, 0.22, 0.4), 260, 0.4, 0.45),
        "haze": ((0.92, 0.92, 0.9), (0.84, 0.84, 0.82), (0.75, 0.78, 0.82), 75, 0.1, 0.05),
    }[str(mood)]
    return Look(
        light=np.array(light) * rng.uniform(0.75, 1.15) * rng.uniform(0.96, 1.04, 3),
        haze=np.clip(np.array(haze) * rng.uniform(0.85, 1.1), 0, 1),
        sky_top=np.clip(np.array(top) * rng.uniform(0.8, 1.2), 0, 1),
        visibility=visibility * rng.uniform(0.7, 1.5),
        sun_side=float(rng.uniform(-1, 1)),
        shadow=shadow * rng.uniform(0.6, 1.0),
        lit_windows=lit,
        cloud=rng.uniform(0.0, 1.0) if mood != "haze" else 0.1,
        foliage=np.array(_FOLIAGE[int(rng.choice(5, p=[0.32, 0.28, 0.2, 0.1, 0.1]))]),
        blur=rng.uniform(0.35, 0.75),
        noise=rng.uniform(1.0, 4.5) * (1.6 if mood == "dusk" else 1.0),
    )


def random_view(rng: Generator, height: int, width: int) -> View:
    """Draws the camera's place and direction, and the road's course before it."""
    scale = math.sqrt(height * width / 2)
    heading = rng.normal(0, 0.1)
    return View(
        height=height,
        width=width,
        focal=scale * rng.uniform(1.0, 1.7),
        camera_height=rng.uniform(1.2, 2.6),
        # The camera nods: with a steady horizon, place alone would tell sky from road.
        horizon=height * rng.uniform(0.12, 0.78),
        centre=width * rng.uniform(0.36, 0.64),
        roll=math.tan(rng.normal(0, 0.015)),
        heading=float(np.clip(heading, -0.22, 0.22)),
        bend=float(np.clip(rng.normal(0, 0.005) - 0.01 * heading, -0.012, 0.012)),
        shift=rng.uniform(-3.0, 3.0),
    )


class Painter:
    """Rasterises polygons into a picture and, at the same time, into its exact label mask.

    One integer mask carries both answers, so that everything is rasterised twice, not three times:
    a shape's mark is its label in the lowest byte and, above, its number if it is counted.
    """

    def __init__(self, view: View, look: Look, picture: Image.Image, mask: Image.Image) -> None:
        self.view, self.look, self.picture, self.mask = view, look, picture, mask
        self._picture_draw = ImageDraw.Draw(picture)
        self._mask_draw = ImageDraw.Draw(mask)
        self._light, self._haze = look.light.tolist(), look.haze.tolist()
        self._objects = 0

    def new_object(self, label: Label) -> int:
        """Returns the mark of a counted object with the next number (1, 2, …)."""
        self._objects += 1
        return label + 256 * self._objects

    def shade(self, colour: Colour, z: float, gain: float = 1.0) -> tuple[int, int, int]:
        """Returns 8-bit RGB of a colour in [0, 1] under the scene's light and air at depth z."""
        clear = math.exp(-z / self.look.visibility)
        channels = colour.tolist() if isinstance(colour, np.ndarray) else colour
        red, green, blue = (
            min(255, int(255 * (clear * min(c * light * gain, 1.0) + (1 - clear) * haze) + 0.5))
            for c, light, haze in zip(channels, self._light, self._haze, strict=True)
        )
        return red, green, blue

    def pixels(self, shape: list[XY], fill: tuple[int, ...], mark: int | None) -> None:
        """Fills one polygon given in pixels; without a mark only the picture changes."""
        xs = [x for x, _ in shape]
        if max(xs) < 0 or min(xs) > self.view.width:
            return
        self._picture_draw.polygon(shape, fill=fill)
        if mark is not None:
            self._mask_draw.polygon(shape, fill=mark)

    def world(
        self, points: Sequence[Sequence[float]], colour: Colour, mark: int | None, gain: float = 1.0
    ) -> None:
        """Fills one polygon of (x, h, z) in metres, shaded at its mean depth."""
        depth = sum(point[2] for point in points) / len(points)
        self.pixels(self.view.outline(points), self.shade(colour, depth, gain), mark)

    def billboard(
        self, x: float, z: float, shape: list[XY], colour: Colour, mark: int | None, gain: float = 1
    ) -> None:
        """Fills a flat shape that faces the camera: metres right of x, metres up."""
        self.world([(x + dx, h, z) for dx, h in shape], colour, mark, gain)

    def discs(
        self, xy: np.ndarray, radius: np.ndarray, fills: Sequence[tuple[int, int, int]], label: int
    ) -> None:
        """Fills discs at pixel centres [n, 2] with pixel radii [n], one colour each."""
        boxes = np.concatenate([xy - radius[:, None], xy + radius[:, None]], axis=1).tolist()
        for box, fill in zip(boxes, fills, strict=True):
            self._picture_draw.ellipse(box, fill=fill)
            self._mask_draw.ellipse(box, fill=label)


def ellipse(x: float, h: float, rx: float, ry: float, corners: int = 12) -> list[XY]:
    """Returns an ellipse as an outline of (x, h) corners, metres."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [(x + rx * math.cos(t), h + ry * math.sin(t)) for t in turns]


def bar(x0: float, h0: float, x1: float, h1: float, w: float) -> list[XY]:
    """Returns a limb or tube from (x0, h0) to (x1, h1), w wide, as an outline in metres."""
    length = math.hypot(x1 - x0, h1 - h0) or 1.0
    nx, nh = -(h1 - h0) / length * w / 2, (x1 - x0) / length * w / 2
    return [(x0 + nx, h0 + nh), (x1 + nx, h1 + nh), (x1 - nx, h1 - nh), (x0 - nx, h0 - nh)]


def jitter(rng: Generator, colour: Colour, spread: float) -> np.ndarray:
    """Returns the colour, randomly lighter or darker and slightly tinted."""
    gain = 1 + spread * rng.uniform(-1, 1) + 0.3 * spread * rng.uniform(-1, 1, 3)
    return np.clip(np.asarray(colour) * gain, 0.02, 1.0)
