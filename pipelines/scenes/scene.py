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
from pipelines.scenes.buildings import building, facade, random_facade
from pipelines.scenes.camera import (
    BUILDING,
    FENCE,
    IGNORED,
    PERSON,
    RIDER,
    ROAD,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    WALL,
    Look,
    Painter,
    random_look,
    random_view,
)
from pipelines.scenes.ground import FAR, Plan, octaves, random_plan, sky_and_ground
from pipelines.scenes.roadside import barrier, hedge, pole, tree
from pipelines.scenes.traffic import bicycle, cyclist, person, vehicle

SMALLEST, LARGEST = 64, 4096
# Disjoint ranges of scene numbers, so that nothing is tested on what it was trained on.
TRAIN_FIRST, VAL_FIRST, CODEC_TRAIN_FIRST, CODEC_CHECK_FIRST = 0, 1_000_000, 2_000_000, 3_000_000
COUNTABLE_LABELS = (24, 25, 26, 27, 28, 33)


class SceneError(LatentStoreError):
    """A scene was asked for that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture and its exact annotation.

    Attributes:
        image_HWC: Uint8 RGB.
        label_ids_HW: Uint8, Cityscapes' labelIds; 0 where nothing is annotated.
        instance_ids_HW: Uint16, one number from 1 on for each visible countable object
            (`COUNTABLE_LABELS`), 0 elsewhere.
    """

    image_HWC: np.ndarray
    label_ids_HW: np.ndarray
    instance_ids_HW: np.ndarray


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
    look, view, plan = random_look(rng), random_view(rng, height, width), random_plan(rng)
    image, labels = sky_and_ground(rng, look, view, plan)
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


def _backdrop(painter: Painter, rng: np.random.Generator, plan: Plan) -> None:
    """Draw what closes the view: hills, woods or a skyline, far away."""
    view = painter.view
    edges = np.linspace(-1, 1, 60) * 2.2 * FAR * view.width / view.focal
    if rng.random() < 0.75:
        rise = 8 + rng.uniform(2, 25) * (1 + octaves(rng, 1, 60, (20, 7, 2))[0])
        ridge = np.stack([edges, rise, np.full(60, FAR)], axis=1)
        feet = [(edges[-1], -3.0, FAR), (edges[0], -3.0, FAR)]
        colour = painter.look.foliage * rng.uniform(0.6, 1.1)
        painter.world([*ridge.tolist(), *feet], colour, VEGETATION)
    if plan.density > 0.3 and rng.random() < 0.8:
        for left in edges[::2]:
            if rng.random() < plan.density:
                wide, high = rng.uniform(8, 30), rng.uniform(6, 12) * plan.tall / 2
                style = random_facade(rng, high / 3)
                z = rng.uniform(120, 200)
                corner = (float(left) + wide, z)
                facade(painter, rng, (float(left), z), corner, style, rng.uniform(0.8, 1.1))


def _population(painter: Painter, rng: np.random.Generator, plan: Plan) -> list:
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


def _roadside(painter: Painter, rng: np.random.Generator, plan: Plan, side: int, add) -> None:
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
            add(z + length, building, side, s, z, z + length, plan.tall)
        elif rng.random() < 0.45:
            label = FENCE if rng.random() < 0.6 else WALL
            add(z + length, barrier, side, edge + 0.4, z, z + length, label)
        for _ in range(rng.poisson(0.8 if plan.density > 0.5 else 2.0)):
            back, deep = rng.exponential(12) + 0.5, z + rng.uniform(0, length)
            x = view.beside(deep, side * (s + back))
            add(deep, tree, x, deep, rng.uniform(1.0, 12))
        z += length * (1.0 if rng.random() < 0.75 else rng.uniform(1.0, 1.6))


def _pavement(painter: Painter, rng: np.random.Generator, plan: Plan, side: int, add) -> None:
    """Plan what stands between road and buildings: street trees, posts, people, bicycles."""
    view = painter.view
    edge = plan.road + plan.walk
    if rng.random() < 0.55 and plan.density < 0.9:
        start, step, size = rng.uniform(4, 20), rng.uniform(6, 16), rng.uniform(4, 10)
        for deep in np.arange(start, rng.uniform(40, 110), step).tolist():
            x = view.beside(deep, side * (edge - 0.4 + rng.uniform(0, 1.0)))
            add(deep, tree, x, deep, size * rng.uniform(0.8, 1.2))
    if rng.random() < 0.3 and plan.density < 0.9:
        deep = rng.uniform(5, 30)
        x = view.beside(deep, side * (edge + 0.6))
        add(deep, hedge, x, deep, rng.uniform(4, 14))
    for deep in rng.uniform(5, 60, rng.integers(1, 7)).tolist():
        kind = str(rng.choice(["lamp", "sign", "light"], p=[0.35, 0.4, 0.25]))
        x = view.beside(deep, side * (plan.road + 0.45))
        add(deep, pole, x, deep, -side, kind)
    for deep in (4 + rng.gamma(1.6, 9, rng.poisson(3.0 * plan.density + 0.5))).tolist():
        s = rng.uniform(plan.road + 0.3, edge + 0.3)
        for _ in range(int(rng.integers(1, 4))):
            x = view.beside(deep, side * s) + rng.normal(0, 0.6)
            add(deep, person, x, deep + rng.normal(0, 0.3))
    for deep in (5 + rng.gamma(1.5, 8, rng.poisson(1.0))).tolist():
        add(deep, bicycle, view.beside(deep, side * (plan.road + 0.5)), deep)


def _traffic(painter: Painter, rng: np.random.Generator, plan: Plan, add) -> None:
    """Plan what stands or moves on the road: parked and moving vehicles, cyclists, pedestrians."""
    view = painter.view
    kinds, odds = ["saloon", "hatch", "van", "bus", "truck"], [0.42, 0.32, 0.14, 0.05, 0.07]
    for side in (-1, 1):
        if rng.random() < 0.65 * min(1, plan.density + 0.2):
            parked = rng.uniform(6, 14)
            while parked < 75:
                if rng.random() < 0.6 and not -5 < parked - plan.crossing < plan.crossing_width + 5:
                    x = view.beside(parked, side * (plan.road - 1.0))
                    kind = str(rng.choice(kinds[:3], p=[0.5, 0.35, 0.15]))
                    yaw = view.road_yaw(parked) + (math.pi if rng.random() < 0.25 else 0)
                    add(parked, vehicle, kind, x, parked, yaw)
                parked += rng.uniform(5.5, 7.5)
        moving = 7 + rng.exponential(14)
        while moving < 120:
            kind = str(rng.choice(kinds, p=odds))
            deep = moving + (6 if kind in ("bus", "truck") else 0)
            x = view.beside(deep, side * max(plan.road * 0.4, 1.2))
            turn = math.pi if side < 0 else 0.0
            yaw = view.road_yaw(deep) + turn + rng.normal(0, 0.03)
            add(deep, vehicle, kind, x, deep, yaw)
            moving += 12 + rng.exponential(30)
    for deep in (6 + rng.gamma(1.5, 9, rng.poisson(1.3))).tolist():
        x = view.beside(deep, rng.choice([-1, 1]) * plan.road * rng.uniform(0.5, 0.9))
        add(deep, cyclist, x, deep)
    for deep in (7 + rng.gamma(2, 8, rng.poisson(0.7))).tolist():
        add(deep, person, view.beside(deep, rng.uniform(-1, 1) * plan.road), deep)
    if plan.crossing < 1e5:
        for lane in (0.28, 0.72):
            for s in rng.uniform(-35, 35, rng.poisson(1.6)).tolist():
                deep = plan.crossing + lane * plan.crossing_width - plan.crossing_slope * s
                if deep > 8:
                    yaw = math.pi / 2 + plan.crossing_slope + (math.pi if lane < 0.5 else 0)
                    kind = str(rng.choice(kinds, p=odds))
                    add(deep, vehicle, kind, view.beside(deep, s), deep, yaw)


def _ego_bonnet(painter: Painter, rng: np.random.Generator) -> None:
    """Draw the bonnet of the camera's own car over the lower edge; it is not annotated."""
    view = painter.view
    top = view.height * (1 - rng.uniform(0.04, 0.12))
    turns = np.linspace(0, np.pi, 24)
    centre, reach = view.width * rng.uniform(0.4, 0.6), view.width * rng.uniform(0.45, 0.75)
    x = centre - reach * np.cos(turns)
    y = view.height + 2 - (view.height - top) * np.sin(turns) ** 0.35
    paint = painter.shade(rng.uniform(0.05, 0.6) * np.ones(3), 1.0)
    painter.pixels(list(zip(x.tolist(), y.tolist(), strict=True)), paint, IGNORED)
    gleam = tuple(min(255, int(channel * 1.4) + 12) for channel in paint)
    middle = (y + view.height) / 2
    painter.pixels(list(zip(x.tolist(), middle.tolist(), strict=True)), gleam, None)


def _develop(
    rng: np.random.Generator, look: Look, picture: Image.Image, labels: np.ndarray
) -> np.ndarray:
    """Return the finished photograph uint8 [H, W, 3]: surface texture, optics, sensor noise."""
    height, width = labels.shape
    amount = np.zeros(256, np.float32)
    amount[[VEGETATION, TERRAIN, BUILDING, WALL]] = 0.3, 0.08, 0.07, 0.1
    amount[[SIDEWALK, ROAD, PERSON, RIDER]] = 0.03, 0.02, 0.1, 0.1
    unit = max(1.0, width / 512)
    texture = octaves(rng, height, width, (1.5 * unit, 3 * unit, 8 * unit))
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
