"""The pictures of an evaluation: one strip an image, what is there beside what each network says.

What networks said of the images that are shown is kept beside their points, so that a second call
draws without running them again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_store.codec import tensor_to_image
from latent_store.format.schema import LATENT_STRIDE
from latent_store.views.panels import save_png, strip
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline
from training.evaluation.networks_to_evaluate import EvaluatedNetwork
from training.evaluation.points import Point


def write_pictures(
    split: EvaluationSplit,
    networks: Sequence[EvaluatedNetwork],
    points: Sequence[Point],
    rows: np.ndarray,
    output: Path,
) -> tuple[str, ...]:
    """Writes one strip a row, and returns the files' names relative to `output`."""
    outputs = [
        _outputs(split, evaluated, rows, output / "points", point.key)
        for evaluated, point in zip(networks, points, strict=True)
    ]
    names = []
    for row in rows.tolist():
        decoded_HWC = _decoded_picture(split, networks[0], row)
        panels = split.task.truth_panels(split.read_truth(row), decoded_HWC, split.class_names)
        for point, found in zip(points, outputs, strict=True):
            drawn_HWC = split.task.draw(found[row], decoded_HWC, split.class_names)
            panels.append((_title(point, points), drawn_HWC))
        (sample_id,) = split.stored.sample_ids([row])
        name = f"pictures/{row:06d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', sample_id)[:80]}.png"
        save_png(output / name, strip(panels))
        names.append(name)
    return tuple(names)


def kept_path(split: EvaluationSplit, folder: Path, key: str, row: int) -> Path:
    """Returns the file that keeps what the network of a point says of a row."""
    return folder / f"{key}-{split.task.kept.format(row=row)}"


def _outputs(
    split: EvaluationSplit, evaluated: EvaluatedNetwork, rows: np.ndarray, folder: Path, key: str
) -> dict[int, Any]:
    """Returns a network's predictions of rows; what was kept before is read back."""
    paths = {row: kept_path(split, folder, key, row) for row in rows.tolist()}
    found = {row: split.task.read_kept(p) for row, p in paths.items() if p.exists()}
    if len(found) < len(paths):
        pipeline = Pipeline(split, evaluated)
        for row in paths.keys() - found.keys():
            (size,) = split.stored.coded_sizes([row]).tolist()
            ((found[row],), _) = pipeline.outputs([row], size)
            split.task.keep(paths[row], found[row])
    return found


def _decoded_picture(split: EvaluationSplit, evaluated: EvaluatedNetwork, row: int) -> np.ndarray:
    ((height, width),) = split.stored.sizes([row]).tolist()
    ((grid_height, grid_width),) = (split.stored.coded_sizes([row]) // LATENT_STRIDE).tolist()
    codec_id = evaluated.spec.codec_id
    y_hat_BCHW = split.latents(codec_id).read([row])[..., :grid_height, :grid_width]
    x_hat_BCHW = split.codec(codec_id).reconstruct(torch.from_numpy(y_hat_BCHW))
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _title(point: Point, points: Sequence[Point]) -> str:
    several = len({p.codec_id for p in points}) > 1
    suffix = f" {point.codec_id[-8:]}" if several else ""
    return f"{point.label}{suffix}, {point.bpp:.3f} bpp"
