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
from latent_store.format.layout import coded_size
from latent_store.format.schema import LATENT_STRIDE
from latent_store.views.panels import save_png, strip
from training.evaluation.candidates import Candidate
from training.evaluation.evaluation_split import Bench
from training.evaluation.pipeline import Pipeline
from training.evaluation.points import Point


def write_pictures(
    bench: Bench,
    candidates: Sequence[Candidate],
    points: Sequence[Point],
    rows: np.ndarray,
    output: Path,
) -> tuple[str, ...]:
    """Writes one strip a row: decoded picture, what is there, and what each network says.

    Returns:
        The files' names relative to `output`.
    """
    outputs = [
        _outputs(bench, candidate, rows, output / "points", point.key)
        for candidate, point in zip(candidates, points, strict=True)
    ]
    names = []
    for row in rows.tolist():
        decoded_HWC = _decoded_picture(bench, candidates[0], row)
        panels = bench.task.truth_panels(bench.read_truth(row), decoded_HWC, bench.class_names)
        for point, found in zip(points, outputs, strict=True):
            drawn_HWC = bench.task.draw(found[row], decoded_HWC, bench.class_names)
            panels.append((_title(point, points), drawn_HWC))
        name = f"pictures/{row:06d}_{_file_name(bench.split.sample_ids([row])[0])}.png"
        save_png(output / name, strip(panels))
        names.append(name)
    return tuple(names)


def kept_path(bench: Bench, folder: Path, key: str, row: int) -> Path:
    """Returns the file that keeps what the network of a point says of a row."""
    return folder / f"{key}-{bench.task.kept.format(row=row)}"


def _outputs(
    bench: Bench, candidate: Candidate, rows: np.ndarray, folder: Path, key: str
) -> dict[int, Any]:
    """Returns a network's predictions of rows; what was kept before is read back."""
    paths = {row: kept_path(bench, folder, key, row) for row in rows.tolist()}
    found = {row: bench.task.read_kept(p) for row, p in paths.items() if p.exists()}
    if len(found) < len(paths):
        pipeline = Pipeline(bench, candidate)
        for row in [row for row in paths if row not in found]:
            size = coded_size(*(int(n) for n in bench.split.sizes([row])[0]))
            ((found[row],), _) = pipeline.outputs([row], size)
            bench.task.keep(paths[row], found[row])
    return found


def _decoded_picture(bench: Bench, candidate: Candidate, row: int) -> np.ndarray:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    coded = coded_size(height, width)
    codec_id = candidate.spec.codec_id
    y_hat_BCHW = bench.latents(codec_id).read([row])
    y_hat_BCHW = y_hat_BCHW[..., : coded[0] // LATENT_STRIDE, : coded[1] // LATENT_STRIDE]
    x_hat_BCHW = bench.codec(codec_id).reconstruct(torch.from_numpy(y_hat_BCHW))
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _title(point: Point, points: Sequence[Point]) -> str:
    several = len({p.codec_id for p in points}) > 1
    suffix = f" {point.codec_id[-8:]}" if several else ""
    return f"{point.label}{suffix}, {point.bpp:.3f} bpp"


def _file_name(sample_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", sample_id)[:80]
