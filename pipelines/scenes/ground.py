"""The ground of a procedural street scene and the sky above it.

It owns the plan of the place: how wide road and pavement are, where another road crosses, what the
surfaces are made of. It also owns the smooth noise that surfaces, clouds and hills are made from.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

from pipelines.scenes.camera import Label, Look, View, jitter

FAR = 220.0  # metres: where the ground fades into the backdrop

_GRASS = (
    (0.3, 0.42, 0.16), (0.42, 0.44, 0.2), (0.55, 0.47, 0.28), (0.24, 0.34, 0.18),
    (0.46, 0.38, 0.28),
)  # fmt: skip
_PAVING = ((0.55, 0.53, 0.5), (0.48, 0.4, 0.36), (0.6, 0.57, 0.5))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The layout along the road; metres to the right of the centre line."""

    road: float
    walk: float
    verge: float
    density: float
    tall: float
    crossing: float
    crossing_width: float
    crossing_slope: float
    lane_marks: int
    grass: np.ndarray
    asphalt: np.ndarray
    paving: np.ndarray


def random_plan(rng: Generator) -> Plan:
    """Draws the kind of place: narrow street, avenue, suburb or open country."""
    kind = rng.choice(["narrow", "avenue", "suburb", "country"], p=[0.3, 0.3, 0.2, 0.2])
    road, walk, verge, density, tall = {
        "narrow": ((2.8, 4.5), (0.8, 2.2), (0.0, 0.0), 0.95, 5),
        "avenue": ((5.5, 9.0), (2.0, 5.0), (0.0, 4.0), 0.75, 6),
        "suburb": ((3.0, 5.0), (1.0, 2.0), (2.0, 7.0), 0.5, 2),
        "country": ((2.8, 5.5), (0.0, 0.4), (3.0, 9.0), 0.08, 1.5),
    }[str(kind)]
    shade = rng.uniform(0.2, 0.48)
    return Plan(
        road=rng.uniform(*road),
        walk=max(0.0, rng.uniform(*walk) - 0.2),
        verge=rng.uniform(*verge),
        density=density,
        tall=tall,
        crossing=rng.uniform(9, 35) if rng.random() < 0.4 else 1e6,
        crossing_width=rng.uniform(5, 10),
        crossing_slope=rng.normal(0, 0.15),
        lane_marks=int(rng.integers(4)),
        grass=jitter(rng, _GRASS[rng.integers(len(_GRASS))], 0.2),
        asphalt=np.array([shade, shade, shade * 1.03]) * rng.uniform(0.95, 1.05, 3),
        paving=jitter(rng, rng.choice(_PAVING), 0.2),
    )


def octaves(rng: Generator, height: int, width: int, cells: tuple[float, ...]) -> np.ndarray:
    """Returns smooth noise float32 [height, width], about -1 to 1: a sum of grids of cells."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.random((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32) - 0.5
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        total += np.asarray(smooth)
    return total * (2 / math.sqrt(len(cells)))


def sky_and_ground(
    rng: Generator, look: Look, view: View, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Draws everything flat: image uint8 [height, width, 3] and labels uint8 [height, width]."""
    height, width = view.height, view.width
    x = np.arange(width, dtype=np.float32)[None] + 0.5 - view.centre
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - view.horizon
    u, v = x + view.roll * y, y - view.roll * x
    ground = v > view.focal * view.camera_height / FAR
    top = int(np.argmax(ground.any(axis=1)))  # rows from here on show some ground
    low = height - int(np.argmin(ground.all(axis=1)[::-1]))  # rows from here on show nothing else
    up = np.clip(-v[:low] / max(view.horizon, 1.0), 0, 1)[..., None] ** 0.7
    sky = (1 - up) * look.haze.astype(np.float32) + up * look.sky_top.astype(np.float32)
    cells = (width / 4, width / 9, width / 25)
    cover = np.clip(octaves(rng, height, width, cells)[:low] * 1.3 + look.cloud - 0.5, 0, 1)
    cloud = np.clip(look.haze * 1.15, 0, 1).astype(np.float32)
    sky += cover[..., None] * (cloud - sky) * np.float32(0.9)
    surface, flat = _ground(rng, look, view, plan, u[top:], np.maximum(v[top:], 0.1))
    image = np.concatenate([sky[:top], surface])
    image[top:low] = np.where(ground[top:low, :, None], surface[: low - top], sky[top:])
    labels = np.full((height, width), Label.SKY, np.uint8)
    np.copyto(labels[top:], flat, where=ground[top:])
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), labels


def _ground(
    rng: Generator, look: Look, view: View, plan: Plan, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns colour float32 [h, w, 3] and labels uint8 [h, w] of ground seen at offsets u, v."""
    z = np.minimum(view.focal * view.camera_height / v, FAR).astype(np.float32)
    s = (u * z / view.focal - view.road_x(z)).astype(np.float32)
    out = np.abs(s)
    across = z + plan.crossing_slope * s - plan.crossing  # depth into the crossing road
    junction = (across > 0) & (across < plan.crossing_width)
    corner = (across > -plan.walk - 0.3) & (across < plan.crossing_width + plan.walk + 0.3)
    road = (out < plan.road) | junction
    walk = ~road & ((out < plan.road + plan.walk) | (corner & (plan.walk > 0.2)))
    labels = np.select([road, walk], [Label.ROAD, Label.SIDEWALK], Label.TERRAIN).astype(np.uint8)
    if plan.density > 0.9:  # a narrow street is paved up to its walls
        labels[labels == Label.TERRAIN] = Label.SIDEWALK
    palette = np.zeros((256, 3), np.float32)
    palette[[Label.ROAD, Label.SIDEWALK, Label.TERRAIN]] = plan.asphalt, plan.paving, plan.grass
    colour = palette[labels]
    near = np.exp(-z / 25)
    grain = _tile(rng, s * 14, z * 5) * near + _tile(rng, s * 1.1, z * 0.5)
    amount = np.where(road, 0.1, np.where(walk, 0.09, 0.3)).astype(np.float32)
    gain = 1 + amount * grain
    tile = rng.uniform(0.4, 0.9)
    seams = ((_cycle(s, tile) < 0.05) | (_cycle(z, tile) < 0.06)) & walk
    gain -= 0.35 * near * seams
    kerb = np.abs(out - plan.road) < 0.12
    gain = np.where(kerb & ~junction & (plan.walk > 0.2), gain * 1.3, gain)
    gain = gain * (1 - 0.5 * look.shadow * _shadows(rng, look, plan, s, z))
    paint = _markings(plan, s, z, across, junction) * road * (0.55 + 0.45 * near)
    paint = paint * rng.uniform(0.5, 1.0) * np.clip(1 + 0.8 * grain, 0, 1)
    colour += (np.float32(0.82) - colour) * paint[..., None]
    clear = np.exp(-z / look.visibility)[..., None]
    lit = np.minimum(colour * gain[..., None] * look.light.astype(np.float32), 1)
    return (clear * lit + (1 - clear) * look.haze).astype(np.float32), labels


def _cycle(x: np.ndarray, period: float) -> np.ndarray:
    """Returns x modulo a period, several times faster than `np.mod` on floats."""
    turns = x / period
    return (turns - np.floor(turns)) * period


def _tile(rng: Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Looks up world-fixed noise float32, about -1 to 1, at texture coordinates a, b."""
    texture = rng.random((128, 128), dtype=np.float32) * 2 - 1
    return texture[b.astype(np.int32) & 127, np.floor(a).astype(np.int32) & 127]


def _shadows(rng: Generator, look: Look, plan: Plan, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns where the ground lies in the shadow of what stands on the sun's side: bool [h, w]."""
    reach = rng.uniform(0.0, 1.6, 64) * (plan.road + plan.walk) * (0.5 + plan.density)
    reach = np.where(rng.random(64) < 0.75, reach, -5.0).astype(np.float32)
    edge = (plan.road + plan.walk + 0.5) - reach[(z * 0.35).astype(np.int32) & 63]
    return s * (1.0 if look.sun_side > 0 else -1.0) > edge


def _markings(
    plan: Plan, s: np.ndarray, z: np.ndarray, across: np.ndarray, junction: np.ndarray
) -> np.ndarray:
    """Returns where the road carries paint: bool [h, w]; lines, dashes, a zebra crossing."""
    out = np.abs(s)
    dashes = _cycle(z, 6.0) < 3.0
    lines = np.zeros(s.shape, bool)
    if plan.lane_marks in (1, 3):
        lines |= (out < 0.08) & dashes
    if plan.lane_marks >= 2:
        lines |= np.abs(out - plan.road + 0.35) < 0.07
    if plan.lane_marks == 3 and plan.road > 5.5:
        lines |= (np.abs(out - plan.road / 2) < 0.08) & dashes
    lines &= ~junction
    zebra = (across > -4.0) & (across < -1.2) & (_cycle(s, 1.0) < 0.5) & (out < plan.road - 0.3)
    return lines & ~((across > -4.5) & (across < 0)) | (zebra if plan.lane_marks else False)
