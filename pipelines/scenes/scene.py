"""Procedural street scenes with exact labels, the same for the same seed everywhere.

A scene is a camera above a bending road with something random on every side of it: facades,
trees, fields, a crossing, traffic. They let the whole chain run without a downloaded dataset. Their
geometry, light and texture vary so much that knowing where things usually stand is of little use:
what a pixel shows has to be seen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from pipelines.scenes.buildings import facade, random_facade
from pipelines.scenes.camera import Label, Look, Painter, random_look, random_view
from pipelines.scenes.ground import FAR, Plan, octaves, random_plan, sky_and_ground
from pipelines.scenes.plain import PlainPopulation, plain_plan, plain_view
from pipelines.scenes.population import Population
from pipelines.scenes.sets import SceneError

SMALLEST, LARGEST = 64, 4096


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


def render_scene(seed: int, index: int, height: int, width: int, *, plain: bool = False) -> Scene:
    """Draws scene `index` of the family `seed`; equal arguments give equal arrays.

    Args:
        seed, index, height, width: The scene's numbers, and its size in pixels.
        plain: Whether it has few classes and little clutter, see `pipelines.scenes.plain`.

    Raises:
        SceneError: If a size is not 64 to 4096 pixels, or a number below 0.
    """
    for name, pixels in (("height", height), ("width", width)):
        if not SMALLEST <= pixels <= LARGEST:
            raise SceneError(f"{name} must be {SMALLEST} to {LARGEST} pixels, not {pixels}")
    if seed < 0 or index < 0:
        raise SceneError(f"seed and index must be 0 or more, not {seed} and {index}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    look, view, plan = random_look(rng), random_view(rng, height, width), random_plan(rng)
    if plain:
        view, plan = plain_view(rng, view), plain_plan(rng, plan)
    image, labels = sky_and_ground(rng, look, view, plan)
    picture = Image.fromarray(image)
    mask = Image.fromarray(labels.astype(np.int32))
    painter = Painter(view, look, picture, mask)
    _backdrop(painter, rng, plan)
    population = PlainPopulation if plain else Population
    for draw in population(painter, rng, plan).far_to_near():
        draw()
    if rng.random() < 0.4 and not plain:
        _ego_bonnet(painter, rng)
    drawn = np.asarray(mask)
    labels = drawn.astype(np.uint8)  # the lower byte
    # Objects hidden by nearer ones leave no pixel.
    instances = closed_up(drawn >> 8)
    image = _develop(rng, look, painter.picture, labels)
    return Scene(image_HWC=image, label_ids_HW=labels, instance_ids_HW=instances)


def closed_up(numbers_HW: np.ndarray) -> np.ndarray:
    """Returns objects' numbers, uint16, without gaps in their order; 0 stays no object."""
    seen = np.bincount(numbers_HW.ravel()) > 0
    seen[0] = False
    return (np.cumsum(seen) * seen).astype(np.uint16)[numbers_HW]


def _backdrop(painter: Painter, rng: Generator, plan: Plan) -> None:
    """Draws what closes the view: hills, woods or a skyline, far away."""
    view = painter.view
    edges = np.linspace(-1, 1, 60) * 2.2 * FAR * view.width / view.focal
    if rng.random() < 0.75:
        rise = 8 + rng.uniform(2, 25) * (1 + octaves(rng, 1, 60, (20, 7, 2))[0])
        ridge = np.stack([edges, rise, np.full(60, FAR)], axis=1)
        feet = [(edges[-1], -3.0, FAR), (edges[0], -3.0, FAR)]
        colour = painter.look.foliage * rng.uniform(0.6, 1.1)
        painter.world([*ridge.tolist(), *feet], colour, Label.VEGETATION)
    if plan.density > 0.3 and rng.random() < 0.8:
        for left in edges[::2]:
            if rng.random() < plan.density:
                wide, high = rng.uniform(8, 30), rng.uniform(6, 12) * plan.tall / 2
                style = random_facade(rng, high / 3)
                z = rng.uniform(120, 200)
                corner = (float(left) + wide, z)
                facade(painter, rng, (float(left), z), corner, style, rng.uniform(0.8, 1.1))


def _ego_bonnet(painter: Painter, rng: Generator) -> None:
    """Draws the bonnet of the camera's own car over the lower edge; it is not annotated."""
    view = painter.view
    top = view.height * (1 - rng.uniform(0.04, 0.12))
    turns = np.linspace(0, np.pi, 24)
    centre, reach = view.width * rng.uniform(0.4, 0.6), view.width * rng.uniform(0.45, 0.75)
    x = centre - reach * np.cos(turns)
    y = view.height + 2 - (view.height - top) * np.sin(turns) ** 0.35
    paint = painter.shade(rng.uniform(0.05, 0.6) * np.ones(3), 1.0)
    painter.pixels(list(zip(x.tolist(), y.tolist(), strict=True)), paint, Label.IGNORED)
    gleam = tuple(min(255, int(channel * 1.4) + 12) for channel in paint)
    middle = (y + view.height) / 2
    painter.pixels(list(zip(x.tolist(), middle.tolist(), strict=True)), gleam, None)


def _develop(rng: Generator, look: Look, picture: Image.Image, labels: np.ndarray) -> np.ndarray:
    """Returns the finished photograph uint8 [H, W, 3]: surface texture, optics, sensor noise."""
    height, width = labels.shape
    amount = np.zeros(256, np.float32)
    amount[[Label.VEGETATION, Label.TERRAIN, Label.BUILDING, Label.WALL]] = 0.3, 0.08, 0.07, 0.1
    amount[[Label.SIDEWALK, Label.ROAD, Label.PERSON, Label.RIDER]] = 0.03, 0.02, 0.1, 0.1
    unit = max(1.0, width / 512)
    texture = octaves(rng, height, width, (1.5 * unit, 3 * unit, 8 * unit))
    # Air lies before what is far away and bright, and shows no leaves.
    solid = np.asarray(picture.convert("L"), dtype=np.float32) * np.float32(-1 / 110) + 1.7
    gain = 1 + amount[labels] * np.clip(solid, 0.15, 1) * texture
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    gain *= 1 - np.float32(rng.uniform(0.0, 0.16)) * (x * x + y * y)
    image = np.asarray(picture, dtype=np.float32) * gain[..., None]
    sharp = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    blurred = sharp.filter(ImageFilter.GaussianBlur(look.blur * unit))
    # The sum of four uniform numbers is close to normal and the same on every machine.
    grain = np.zeros((height, width), np.int16)
    for part in rng.integers(0, 256, (4, height, width), dtype=np.uint8):
        grain += part
    noise = (grain - 510).astype(np.float32) * np.float32(look.noise / 148)
    noisy = np.asarray(blurred, dtype=np.float32) + noise[..., None]
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
