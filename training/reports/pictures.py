"""The pictures of an evaluation: what is there beside what each network says, at its own rate.

One strip an image goes to a file; the page of the report gets the same, and what each number of
channels decodes to. What networks said of the images that are shown is kept beside their points, so
that a second call draws without running them again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latent_store.codec import tensor_to_image
from latent_store.codec.pictures import read_image
from latent_store.errors import DatasetError
from latent_store.format.schema import LATENT_STRIDE
from latent_store.storage.location import Location
from latent_store.views.panels import legend, save_png, strip
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline
from training.evaluation.networks_to_evaluate import EvaluatedNetwork
from training.evaluation.points import Point, SampleResult
from training.reports.image_scores import image_scores
from training.tasks.base import Panel
from training.tasks.classes import class_colours

_MOST_WIDTH = 1024
"""Of a panel in a strip: four of them fill a screen's width several times over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownNetwork:
    """What one network makes of one picture; pictures are uint8 RGB [H, W, 3].

    Attributes:
        point: Its number among the points.
        sample: The picture's own bytes.
        score: The picture's own score; nan where nothing in it counts.
        drawn_HWC: The prediction.
        decoded_HWC: What the channels that it got decode to.
        partly: Whether that picture is of these channels alone; else it is of all.
    """

    point: int
    sample: SampleResult
    score: float
    drawn_HWC: np.ndarray
    decoded_HWC: np.ndarray
    partly: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownPicture:
    """One picture with everything that is said of it.

    Attributes:
        original_HWC: As it was before it was coded; None without a data root.
        truth: Panels of what is there.
    """

    row: int
    sample_id: str
    original_HWC: np.ndarray | None
    truth: list[Panel]
    networks: list[ShownNetwork]


def show(
    split: EvaluationSplit,
    networks: Sequence[EvaluatedNetwork],
    points: Sequence[Point],
    rows: Sequence[int],
    folder: Path,
    originals: Location | None = None,
) -> Iterator[ShownPicture]:
    """Yields rows with what networks say of them, one at a time: pictures can be large.

    Args:
        folder: Where predictions are kept.
        originals: The data root that was encoded.

    Raises:
        DatasetError: An original is missing, or another picture.
    """
    predict = _kept_or_made(split, networks, points, folder)
    scores = [image_scores(point) for point in points]
    for row in rows:
        (sample_id,) = split.stored.sample_ids([row])
        decoded: dict[tuple[str, tuple[int, ...] | None], np.ndarray] = {}
        shown = []
        for number, (evaluated, point) in enumerate(zip(networks, points, strict=True)):
            at = [s.sample_id for s in point.samples].index(sample_id)
            sample, ranked = point.samples[at], split.ranked(evaluated)
            channels = ranked.ranking.channels(sample.rate.channels) if ranked else None
            key = (point.codec_id, channels)
            if key not in decoded:
                decoded[key] = _decode(split, point.codec_id, row, channels)
            whole = (point.codec_id, None)
            if whole not in decoded:
                decoded[whole] = _decode(split, point.codec_id, row, None)
            found = split.task.draw(predict(number, row), decoded[whole], split.class_names)
            shown.append(
                ShownNetwork(
                    point=number,
                    sample=sample,
                    score=float(scores[number][at]),
                    drawn_HWC=found,
                    decoded_HWC=decoded[key],
                    partly=channels is not None or sample.rate.channels == point.channels_total,
                )
            )
        picture_HWC = decoded[points[0].codec_id, None]
        yield ShownPicture(
            row=row,
            sample_id=sample_id,
            original_HWC=None if originals is None else _original(split, row, originals),
            truth=split.task.truth_panels(split.read_truth(row), picture_HWC, split.class_names),
            networks=shown,
        )


def _kept_or_made(
    split: EvaluationSplit,
    networks: Sequence[EvaluatedNetwork],
    points: Sequence[Point],
    folder: Path,
) -> Callable[[int, int], Any]:
    """Returns what gives a network's prediction of a row, by its number, and keeps it."""
    pipelines: dict[int, Pipeline] = {}

    def predict(number: int, row: int) -> Any:
        path = kept_path(split, folder, points[number].key, row)
        if path.exists():
            return split.task.read_kept(path)
        if number not in pipelines:
            pipelines[number] = Pipeline(split, networks[number])
        (size,) = split.stored.coded_sizes([row]).tolist()
        ((prediction,), _) = pipelines[number].outputs([row], size)
        split.task.keep(path, prediction)
        return prediction

    return predict


def write_strip(picture: ShownPicture, points: Sequence[Point], output: Path) -> str:
    """Writes a picture's panels to one PNG, and returns its name relative to `output`."""
    panels = [] if picture.original_HWC is None else [("original", picture.original_HWC)]
    panels += picture.truth
    panels += [(_title(found, points), found.drawn_HWC) for found in picture.networks]
    panels = [(title, reduced(drawn_HWC, _MOST_WIDTH)) for title, drawn_HWC in panels]
    names = points[0].class_names
    height, width = panels[0][1].shape[:2]
    entries = list(zip(names, class_colours(names), strict=True))
    panels.append(("classes", legend(entries, height, max(width, 200))))
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", picture.sample_id)[:80]
    name = f"pictures/{picture.row:06d}_{cleaned}.png"
    save_png(output / name, strip(panels))
    return name


def kept_path(split: EvaluationSplit, folder: Path, key: str, row: int) -> Path:
    """Returns the file that keeps what the network of a point says of a row."""
    return folder / f"{key}-{split.task.kept.format(row=row)}"


def reduced(picture_HWC: np.ndarray, width: int) -> np.ndarray:
    """Returns a picture at most `width` pixels across, its colours unmixed where they are few."""
    height, across = picture_HWC.shape[:2]
    if across <= width:
        return picture_HWC
    picture = Image.fromarray(picture_HWC)
    flat = picture.getcolors(256) is not None
    kind = Image.Resampling.NEAREST if flat else Image.Resampling.BOX
    return np.asarray(picture.resize((width, max(1, round(height * width / across))), kind))


def _decode(
    split: EvaluationSplit, codec_id: str, row: int, channels: tuple[int, ...] | None
) -> np.ndarray:
    """Returns the picture that these channels of a row decode to, all where None."""
    ((height, width),) = split.stored.sizes([row]).tolist()
    ((grid_height, grid_width),) = (split.stored.coded_sizes([row]) // LATENT_STRIDE).tolist()
    y_hat_BCHW = split.latents(codec_id).read([row])[..., :grid_height, :grid_width]
    if channels is not None:
        y_hat_BCHW[:, np.setdiff1d(np.arange(y_hat_BCHW.shape[1]), channels)] = 0
    x_hat_BCHW = split.codec(codec_id).reconstruct(torch.from_numpy(y_hat_BCHW))
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _original(split: EvaluationSplit, row: int, originals: Location) -> np.ndarray:
    uri = split.stored.plan.sample_at(row).image_uri
    try:
        picture_HWC = read_image(io.BytesIO(originals.read(uri)))
    except OSError as error:
        raise DatasetError(
            f"{uri} cannot be read below --data_root {originals.url} ({error}); give the data root "
            "that was encoded, or leave it out"
        ) from error
    expected = tuple(split.stored.sizes([row])[0].tolist())
    if picture_HWC.shape[:2] != expected:
        raise DatasetError(
            f"{uri} below --data_root {originals.url} is {picture_HWC.shape[:2]}, what was encoded "
            f"is {expected} (height, width); give the data root that was encoded"
        )
    return picture_HWC


def _title(found: ShownNetwork, points: Sequence[Point]) -> str:
    point = points[found.point]
    several = len({p.codec_id for p in points}) > 1
    name = f"{point.label} {point.codec_name}" if several else point.label
    bpp = 8 * found.sample.rate.total_bytes / found.sample.pixels
    score = "" if np.isnan(found.score) else f", {point.metric} {found.score:.2f}"
    return f"{name}: {bpp:.3f} bpp{score}"
