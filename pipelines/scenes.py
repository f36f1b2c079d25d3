"""Procedural street scenes with exact labels, the same for the same seed everywhere.

A scene is a camera above a bending road with something random on every side of it: facades,
trees, fields, a crossing, traffic. They let the whole chain run without a downloaded dataset. Their
geometry, light and texture vary so much that knowing where things usually stand is of little use:
what a pixel shows has to be seen.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from latent_store.errors import LatentStoreError
from pipelines import scene_objects as things
from pipelines.scene_objects import Look, Painter, View

SMALLEST, LARGEST = 64, 4096
# Disjoint ranges of scene numbers, so that nothing is tested on what it was trained on.
TRAIN_FIRST, VAL_FIRST, CODEC_TRAIN_FIRST, CODEC_CHECK_FIRST = 0, 1_000_000, 2_000_000, 3_000_000
COUNTABLE_LABELS = (24, 25, 26, 27, 28, 33)

_FAR = 220.0  # metres: where the ground fades into the backdrop


class SceneError(LatentStoreError):
    """A scene was asked for that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture and its exact annotation.

    Attributes:
        image_HWC: uint8 RGB.
        label_ids_HW: uint8, Cityscapes' labelIds; 0 where nothing is annotated.
        instance_ids_HW: uint16, one number from 1 on for each visible countable object
            (`COUNTABLE_LABELS`), 0 elsewhere.
    """

    image_HWC: np.ndarray
    label_ids_HW: np.ndarray
    instance_ids_HW: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What stands along the road; metres to the right of the centre line."""

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


def render_scene(seed: int, index: int, height: int, width: int) -> Scene:
    """Draw one street scene.

    Args:
        seed: Which family of scenes, 0 or more.
        index: Which scene of the family, 0 or more.
        height: Pixels, 64 to 4096.
        width: Pixels, 64 to 4096.

    Returns:
        The scene: image uint8 [height, width, 3], labels uint8 and instances uint16
        [height, width]. Equal arguments give equal arrays.

    Raises:
        SceneError: If a size or a number is out of range.
    """
    for name, pixels in (("height", height), ("width", width)):
        if not SMALLEST <= pixels <= LARGEST:
            raise SceneError(f"{name} must be {SMALLEST} to {LARGEST} pixels, not {pixels}")
    if seed < 0 or index < 0:
        raise SceneError(f"seed and index must be 0 or more, not {seed} and {index}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    look, view, plan = _random_look(rng), _random_view(rng, height, width), _random_plan(rng)
    image, labels = _sky_and_ground(rng, look, view, plan)
    picture = Image.fromarray(image)
    mask = Image.fromarray(labels.astype(np.int32))
    painter = Painter(view, look, picture, mask)
    _backdrop(painter, rng, plan)
    for _, draw in sorted(_population(painter, rng, plan), key=lambda entry: -entry[0]):
        draw()
    if rng.random() < 0.4:
        _ego_bonnet(painter, rng)
    drawn = np.asarray(mask)
    labels = drawn.astype(np.uint8)  # the lower byte
    numbers = drawn >> 8
    # Objects hidden by nearer ones leave no pixel: the numbers are closed up again.
    seen = np.bincount(numbers.ravel()) > 0
    seen[0] = False
    instances = np.cumsum(seen).astype(np.uint16)[numbers]
    instances[numbers == 0] = 0
    return Scene(
        image_HWC=_develop(rng, look, painter.picture, labels),
        label_ids_HW=labels,
        instance_ids_HW=instances,
    )


def _random_look(rng: np.random.Generator) -> Look:
    """Draw the light: day, overcast, dusk or haze."""
    mood = rng.choice(["day", "overcast", "dusk", "haze"], p=[0.4, 0.27, 0.15, 0.18])
    light, haze, top, visibility, shadow, lit = {
        "day": ((1.05, 1.02, 0.96), (0.78, 0.85, 0.93), (0.25, 0.48, 0.85), 420, 1.0, 0.02),
        "overcast": ((0.82, 0.84, 0.87), (0.8, 0.82, 0.84), (0.68, 0.71, 0.75), 300, 0.15, 0.06),
        "dusk": ((0.5, 0.42, 0.44), (0.72, 0.48, 0.4), (0.2, 0.22, 0.4), 260, 0.4, 0.45),
        "haze": ((0.92, 0.92, 0.9), (0.84, 0.84, 0.82), (0.75, 0.78, 0.82), 75, 0.1, 0.05),
    }[str(mood)]
    foliage = [
        (0.2, 0.34, 0.12),
        (0.28, 0.38, 0.16),
        (0.16, 0.28, 0.18),
        (0.45, 0.38, 0.12),
        (0.5, 0.26, 0.1),
    ]
    return Look(
        light=np.array(light) * rng.uniform(0.75, 1.15) * rng.uniform(0.96, 1.04, 3),
        haze=np.clip(np.array(haze) * rng.uniform(0.85, 1.1), 0, 1),
        sky_top=np.clip(np.array(top) * rng.uniform(0.8, 1.2), 0, 1),
        visibility=visibility * rng.uniform(0.7, 1.5),
        sun_side=float(rng.uniform(-1, 1)),
        shadow=shadow * rng.uniform(0.6, 1.0),
        lit_windows=lit,
        cloud=rng.uniform(0.0, 1.0) if mood != "haze" else 0.1,
        foliage=np.array(foliage[int(rng.choice(5, p=[0.32, 0.28, 0.2, 0.1, 0.1]))]),
        blur=rng.uniform(0.35, 0.75),
        noise=rng.uniform(1.0, 4.5) * (1.6 if mood == "dusk" else 1.0),
    )


def _random_view(rng: np.random.Generator, height: int, width: int) -> View:
    """Draw the camera's place and direction, and the road's course before it."""
    scale = math.sqrt(height * width / 2)
    heading = rng.normal(0, 0.1)
    return View(
        height=height,
        width=width,
        focal=scale * rng.uniform(1.0, 1.7),
        camera_height=rng.uniform(1.2, 2.6),
        horizon=height * rng.uniform(0.28, 0.62),
        centre=width * rng.uniform(0.36, 0.64),
        roll=math.tan(rng.normal(0, 0.015)),
        heading=float(np.clip(heading, -0.22, 0.22)),
        bend=float(np.clip(rng.normal(0, 0.005) - 0.01 * heading, -0.012, 0.012)),
        shift=rng.uniform(-3.0, 3.0),
    )


def _random_plan(rng: np.random.Generator) -> _Plan:
    """Draw the kind of place: narrow street, avenue, suburb or open country."""
    kind = rng.choice(["narrow", "avenue", "suburb", "country"], p=[0.3, 0.3, 0.2, 0.2])
    road, walk, verge, density, tall = {
        "narrow": ((2.8, 4.5), (0.8, 2.2), (0.0, 0.0), 0.95, 5),
        "avenue": ((5.5, 9.0), (2.0, 5.0), (0.0, 4.0), 0.75, 6),
        "suburb": ((3.0, 5.0), (1.0, 2.0), (2.0, 7.0), 0.5, 2),
        "country": ((2.8, 5.5), (0.0, 0.4), (3.0, 9.0), 0.08, 1.5),
    }[str(kind)]
    grass = [
        (0.3, 0.42, 0.16),
        (0.42, 0.44, 0.2),
        (0.55, 0.47, 0.28),
        (0.24, 0.34, 0.18),
        (0.46, 0.38, 0.28),
    ]
    shade = rng.uniform(0.2, 0.48)
    return _Plan(
        road=rng.uniform(*road),
        walk=max(0.0, rng.uniform(*walk) - 0.2),
        verge=rng.uniform(*verge),
        density=density,
        tall=tall,
        crossing=rng.uniform(9, 35) if rng.random() < 0.4 else 1e6,
        crossing_width=rng.uniform(5, 10),
        crossing_slope=rng.normal(0, 0.15),
        lane_marks=int(rng.integers(4)),
        grass=things.jitter(rng, grass[rng.integers(len(grass))], 0.2),
        asphalt=np.array([shade, shade, shade * 1.03]) * rng.uniform(0.95, 1.05, 3),
        paving=things.jitter(
            rng, rng.choice([(0.55, 0.53, 0.5), (0.48, 0.4, 0.36), (0.6, 0.57, 0.5)]), 0.2
        ),
    )


def _octaves(
    rng: np.random.Generator, height: int, width: int, cells: tuple[float, ...]
) -> np.ndarray:
    """Return smooth noise float32 [height, width], about -1 to 1: a sum of grids of these cells."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.random((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32) - 0.5
        total += np.asarray(
            Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        )
    return total * (2 / math.sqrt(len(cells)))


def _sky_and_ground(
    rng: np.random.Generator, look: Look, view: View, plan: _Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Draw everything flat: image uint8 [height, width, 3] and labels uint8 [height, width]."""
    height, width = view.height, view.width
    x = np.arange(width, dtype=np.float32)[None] + 0.5 - view.centre
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - view.horizon
    u, v = x + view.roll * y, y - view.roll * x
    ground = v > view.focal * view.camera_height / _FAR
    top = int(np.argmax(ground.any(axis=1)))  # rows from here on show some ground
    low = height - int(np.argmin(ground.all(axis=1)[::-1]))  # rows from here on show nothing else
    up = np.clip(-v[:low] / max(view.horizon, 1.0), 0, 1)[..., None] ** 0.7
    sky = (1 - up) * look.haze.astype(np.float32) + up * look.sky_top.astype(np.float32)
    cells = (width / 4, width / 9, width / 25)
    cover = np.clip(_octaves(rng, height, width, cells)[:low] * 1.3 + look.cloud - 0.5, 0, 1)
    cloud = np.clip(look.haze * 1.15, 0, 1).astype(np.float32)
    sky += cover[..., None] * (cloud - sky) * np.float32(0.9)
    surface, flat = _ground(rng, look, view, plan, u[top:], np.maximum(v[top:], 0.1))
    image = np.concatenate([sky[:top], surface])
    image[top:low] = np.where(ground[top:low, :, None], surface[: low - top], sky[top:])
    labels = np.full((height, width), things.SKY, np.uint8)
    np.copyto(labels[top:], flat, where=ground[top:])
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), labels


def _ground(
    rng: np.random.Generator, look: Look, view: View, plan: _Plan, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour float32 [h, w, 3] and labels uint8 [h, w] of ground seen at offsets u, v."""
    z = np.minimum(view.focal * view.camera_height / v, _FAR).astype(np.float32)
    s = (u * z / view.focal - view.road_x(z)).astype(np.float32)
    out = np.abs(s)
    across = z + plan.crossing_slope * s - plan.crossing  # depth into the crossing road
    junction = (across > 0) & (across < plan.crossing_width)
    corner = (across > -plan.walk - 0.3) & (across < plan.crossing_width + plan.walk + 0.3)
    road = (out < plan.road) | junction
    walk = ~road & ((out < plan.road + plan.walk) | (corner & (plan.walk > 0.2)))
    labels = np.where(road, things.ROAD, np.where(walk, things.SIDEWALK, things.TERRAIN)).astype(
        np.uint8
    )
    if plan.density > 0.9:  # a narrow street is paved up to its walls
        labels[labels == things.TERRAIN] = things.SIDEWALK
    palette = np.zeros((256, 3), np.float32)
    palette[things.ROAD], palette[things.SIDEWALK] = plan.asphalt, plan.paving
    palette[things.TERRAIN] = plan.grass
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
    """Return x modulo a period, several times faster than `np.mod` on floats."""
    turns = x / period
    return (turns - np.floor(turns)) * period


def _tile(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Look up world-fixed noise float32, about -1 to 1, at texture coordinates a, b (any shape)."""
    texture = rng.random((128, 128), dtype=np.float32) * 2 - 1
    return texture[b.astype(np.int32) & 127, np.floor(a).astype(np.int32) & 127]


def _shadows(
    rng: np.random.Generator, look: Look, plan: _Plan, s: np.ndarray, z: np.ndarray
) -> np.ndarray:
    """Return where the ground lies in the shadow of what stands on the sun's side: bool [h, w]."""
    reach = rng.uniform(0.0, 1.6, 64) * (plan.road + plan.walk) * (0.5 + plan.density)
    reach = np.where(rng.random(64) < 0.75, reach, -5.0).astype(np.float32)
    edge = (plan.road + plan.walk + 0.5) - reach[(z * 0.35).astype(np.int32) & 63]
    return s * (1.0 if look.sun_side > 0 else -1.0) > edge


def _markings(
    plan: _Plan, s: np.ndarray, z: np.ndarray, across: np.ndarray, junction: np.ndarray
) -> np.ndarray:
    """Return where the road carries paint: bool [h, w]; lines, dashes, a zebra crossing."""
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


def _backdrop(painter: Painter, rng: np.random.Generator, plan: _Plan) -> None:
    """Draw what closes the view: hills, woods or a skyline, far away."""
    view = painter.view
    edges = np.linspace(-1, 1, 60) * 2.2 * _FAR * view.width / view.focal
    if rng.random() < 0.75:
        rise = 8 + rng.uniform(2, 25) * (1 + _octaves(rng, 1, 60, (20, 7, 2))[0])
        ridge = np.stack([edges, rise, np.full(60, _FAR)], axis=1)
        feet = [(edges[-1], -3.0, _FAR), (edges[0], -3.0, _FAR)]
        colour = painter.look.foliage * rng.uniform(0.6, 1.1)
        painter.world([*ridge.tolist(), *feet], colour, things.VEGETATION)
    if plan.density > 0.3 and rng.random() < 0.8:
        for left in edges[::2]:
            if rng.random() < plan.density:
                wide, high = rng.uniform(8, 30), rng.uniform(6, 12) * plan.tall / 2
                style = things.random_facade(rng, high / 3)
                z = rng.uniform(120, 200)
                corner = (float(left) + wide, z)
                things.wall(painter, rng, (float(left), z), corner, style, rng.uniform(0.8, 1.1))


def _population(painter: Painter, rng: np.random.Generator, plan: _Plan) -> list:
    """Return what stands in the scene as (depth in metres, function that draws it)."""
    entries: list = []

    def add(depth: float, function, *args) -> None:
        # Each object owns a generator: whether one is drawn does not change the next.
        own = np.random.default_rng(int(rng.integers(2**63)))
        entries.append((depth, lambda: function(painter, own, *args)))

    for side in (-1, 1):
        _roadside(painter, rng, plan, side, add)
        _pavement(painter, rng, plan, side, add)
    _traffic(painter, rng, plan, add)
    return entries


def _roadside(painter: Painter, rng: np.random.Generator, plan: _Plan, side: int, add) -> None:
    """Plan one side of the road: buildings or barriers in a row, trees behind them."""
    view = painter.view
    edge = plan.road + plan.walk
    density = np.clip(plan.density * rng.uniform(0.6, 1.25), 0, 1)
    z = rng.uniform(1.0, 4.0)
    while z < 130:
        length = rng.uniform(7, 22)
        gap = (
            plan.crossing - 1 - plan.walk < z + length
            and z < plan.crossing + plan.crossing_width + plan.walk
        )
        s = edge + plan.verge + rng.uniform(0.0, 0.8)
        if gap:
            beyond = plan.crossing + plan.crossing_width + plan.walk + 1
            z = max(z + 3, beyond if z > plan.crossing - 8 else 0)
            continue
        if rng.random() < density:
            add(z + length, things.building, side, s, z, z + length, plan.tall)
        elif rng.random() < 0.45:
            label = things.FENCE if rng.random() < 0.6 else things.WALL
            add(z + length, things.barrier, side, edge + 0.4, z, z + length, label)
        for _ in range(rng.poisson(0.8 if plan.density > 0.5 else 2.0)):
            back, deep = rng.exponential(12) + 0.5, z + rng.uniform(0, length)
            x = float(view.road_x(deep)) + side * (s + back)
            add(deep, things.tree, x, deep, rng.uniform(1.0, 12))
        z += length * (1.0 if rng.random() < 0.75 else rng.uniform(1.0, 1.6))


def _pavement(painter: Painter, rng: np.random.Generator, plan: _Plan, side: int, add) -> None:
    """Plan what stands between road and buildings: street trees, posts, people, bicycles."""
    view = painter.view
    edge = plan.road + plan.walk
    if rng.random() < 0.55 and plan.density < 0.9:
        start, step, size = rng.uniform(4, 20), rng.uniform(6, 16), rng.uniform(4, 10)
        for deep in np.arange(start, rng.uniform(40, 110), step).tolist():
            x = float(view.road_x(deep)) + side * (edge - 0.4 + rng.uniform(0, 1.0))
            add(deep, things.tree, x, deep, size * rng.uniform(0.8, 1.2))
    if rng.random() < 0.3 and plan.density < 0.9:
        deep = rng.uniform(5, 30)
        x = float(view.road_x(deep)) + side * (edge + 0.6)
        add(deep, things.hedge, x, deep, rng.uniform(4, 14))
    for deep in rng.uniform(5, 60, rng.integers(1, 7)).tolist():
        kind = str(rng.choice(["lamp", "sign", "light"], p=[0.35, 0.4, 0.25]))
        x = float(view.road_x(deep)) + side * (plan.road + 0.45)
        add(deep, things.pole, x, deep, -side, kind)
    for deep in (4 + rng.gamma(1.6, 9, rng.poisson(3.0 * plan.density + 0.5))).tolist():
        s = rng.uniform(plan.road + 0.3, edge + 0.3)
        for _ in range(int(rng.integers(1, 4))):
            x = float(view.road_x(deep)) + side * s + rng.normal(0, 0.6)
            add(deep, things.person, x, deep + rng.normal(0, 0.3))
    for deep in (5 + rng.gamma(1.5, 8, rng.poisson(1.0))).tolist():
        add(deep, things.bicycle, float(view.road_x(deep)) + side * (plan.road + 0.5), deep)


def _traffic(painter: Painter, rng: np.random.Generator, plan: _Plan, add) -> None:
    """Plan what stands or moves on the road: parked and moving vehicles, cyclists, pedestrians."""
    view = painter.view
    kinds, odds = ["saloon", "hatch", "van", "bus", "truck"], [0.42, 0.32, 0.14, 0.05, 0.07]
    for side in (-1, 1):
        if rng.random() < 0.65 * min(1, plan.density + 0.2):
            parked = rng.uniform(6, 14)
            while parked < 75:
                if rng.random() < 0.6 and not -5 < parked - plan.crossing < plan.crossing_width + 5:
                    x = float(view.road_x(parked)) + side * (plan.road - 1.0)
                    kind = str(rng.choice(kinds[:3], p=[0.5, 0.35, 0.15]))
                    yaw = view.road_yaw(parked) + (math.pi if rng.random() < 0.25 else 0)
                    add(parked, things.vehicle, kind, x, parked, yaw)
                parked += rng.uniform(5.5, 7.5)
        moving = 7 + rng.exponential(14)
        while moving < 120:
            kind = str(rng.choice(kinds, p=odds))
            deep = moving + (6 if kind in ("bus", "truck") else 0)
            x = float(view.road_x(deep)) + side * max(plan.road * 0.4, 1.2)
            turn = math.pi if side < 0 else 0.0
            yaw = view.road_yaw(deep) + turn + rng.normal(0, 0.03)
            add(deep, things.vehicle, kind, x, deep, yaw)
            moving += 12 + rng.exponential(30)
    for deep in (6 + rng.gamma(1.5, 9, rng.poisson(1.3))).tolist():
        x = float(view.road_x(deep)) + rng.choice([-1, 1]) * plan.road * rng.uniform(0.5, 0.9)
        add(deep, things.cyclist, x, deep)
    for deep in (7 + rng.gamma(2, 8, rng.poisson(0.7))).tolist():
        add(deep, things.person, float(view.road_x(deep)) + rng.uniform(-1, 1) * plan.road, deep)
    if plan.crossing < 1e5:
        for lane in (0.28, 0.72):
            for s in rng.uniform(-35, 35, rng.poisson(1.6)).tolist():
                deep = plan.crossing + lane * plan.crossing_width - plan.crossing_slope * s
                if deep > 8:
                    yaw = math.pi / 2 + plan.crossing_slope + (math.pi if lane < 0.5 else 0)
                    kind = str(rng.choice(kinds, p=odds))
                    add(deep, things.vehicle, kind, float(view.road_x(deep)) + s, deep, yaw)


def _ego_bonnet(painter: Painter, rng: np.random.Generator) -> None:
    """Draw the bonnet of the camera's own car over the lower edge; it is not annotated."""
    view = painter.view
    top = view.height * (1 - rng.uniform(0.04, 0.12))
    turns = np.linspace(0, np.pi, 24)
    centre, reach = view.width * rng.uniform(0.4, 0.6), view.width * rng.uniform(0.45, 0.75)
    x = centre - reach * np.cos(turns)
    y = view.height + 2 - (view.height - top) * np.sin(turns) ** 0.35
    paint = painter.shade(rng.uniform(0.05, 0.6) * np.ones(3), 1.0)
    painter.pixels(list(zip(x.tolist(), y.tolist(), strict=True)), paint, things.IGNORED)
    gleam = tuple(min(255, int(channel * 1.4) + 12) for channel in paint)
    middle = (y + view.height) / 2
    painter.pixels(list(zip(x.tolist(), middle.tolist(), strict=True)), gleam, None)


def _develop(
    rng: np.random.Generator, look: Look, picture: Image.Image, labels: np.ndarray
) -> np.ndarray:
    """Return the finished photograph uint8 [H, W, 3]: surface texture, optics, sensor noise."""
    height, width = labels.shape
    amount = np.zeros(256, np.float32)
    amount[[things.VEGETATION, things.TERRAIN, things.BUILDING, things.WALL]] = 0.3, 0.08, 0.07, 0.1
    amount[[things.SIDEWALK, things.ROAD, things.PERSON, things.RIDER]] = 0.03, 0.02, 0.1, 0.1
    unit = max(1.0, width / 512)
    texture = _octaves(rng, height, width, (1.5 * unit, 3 * unit, 8 * unit))
    # Air lies before what is far away and bright, and shows no leaves.
    solid = np.asarray(picture.convert("L"), dtype=np.float32) * np.float32(-1 / 110) + 1.7
    gain = 1 + amount[labels] * np.clip(solid, 0.15, 1) * texture
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    gain *= 1 - np.float32(rng.uniform(0.0, 0.16)) * (x * x + y * y)
    image = np.asarray(picture, dtype=np.float32) * gain[..., None]
    blurred = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(look.blur * unit)
    )
    # The sum of four uniform numbers is close to normal and the same on every machine.
    grain = np.zeros((height, width), np.int16)
    for part in rng.integers(0, 256, (4, height, width), dtype=np.uint8):
        grain += part
    noise = (grain - 510).astype(np.float32) * np.float32(look.noise / 148)
    return np.clip(np.asarray(blurred, dtype=np.float32) + noise[..., None] + 0.5, 0, 255).astype(
        np.uint8
    )
