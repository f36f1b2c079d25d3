"""The pictures of an evaluation: one strip an image, what is there beside what each network says.

What networks said of the images that are shown is kept beside their points, so that a second call
draws without running them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latent_store.codec import tensor_to_image
from latent_store.errors import IntegrityError
from latent_store.format.layout import coded_size
from latent_store.format.schema import LATENT_STRIDE
from latent_store.tools.panels import save_png, strip
from training.evaluation.candidates import Candidate
from training.evaluation.evaluation_split import Bench
from training.evaluation.pipeline import Pipeline
from training.evaluation.points import Point, write_text
from training.tasks.box_pictures import draw_detections, draw_objects
from training.tasks.classes import class_colours
from training.tasks.detection_metrics import Detections
from training.tasks.pictures import colourise, read_labels
from training.transmission.inference import Output


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
        panels = _truth_panels(bench, row, decoded_HWC)
        for point, found in zip(points, outputs, strict=True):
            panels.append((_title(point, points), _panel(bench, found[row], decoded_HWC)))
        name = f"pictures/{row:06d}_{_file_name(bench.split.sample_ids([row])[0])}.png"
        save_png(output / name, strip(panels))
        names.append(name)
    return tuple(names)


def keep_output(folder: Path, key: str, row: int, output: Output) -> None:
    """Keeps what the network of a point says of a row."""
    if isinstance(output, Detections):
        write_text(_boxes_path(folder, key, row), json.dumps(output.to_json()))
    else:
        save_png(_map_path(folder, key, row), output)


def _outputs(
    bench: Bench, candidate: Candidate, rows: np.ndarray, folder: Path, key: str
) -> dict[int, Output]:
    """Returns what a network says of rows; what was kept before is read back."""
    found = {row: _read_output(bench.task, folder, key, row) for row in rows.tolist()}
    missing = [row for row, output in found.items() if output is None]
    if missing:
        pipeline = Pipeline(bench, candidate)
        for row in missing:
            size = coded_size(*(int(n) for n in bench.split.sizes([row])[0]))
            ((found[row],), _) = pipeline.outputs([row], size)
            keep_output(folder, key, row, found[row])
    return found


def _read_output(task: str, folder: Path, key: str, row: int) -> Output | None:
    path = (_boxes_path if task == "detection" else _map_path)(folder, key, row)
    if not path.exists():
        return None
    if task != "detection":
        return read_labels(path)
    try:
        return Detections.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} holds no detections ({error}); delete it") from error


def _truth_panels(bench: Bench, row: int, decoded_HWC: np.ndarray) -> list[tuple[str, np.ndarray]]:
    colours = class_colours(bench.class_names)
    if bench.task == "detection":
        drawn_HWC = draw_objects(decoded_HWC, bench.read_boxes(row), bench.class_names, colours)
        return [("objects", drawn_HWC)]
    label_HWC = colourise(bench.read_labels(row), colours)
    return [("decoded picture", decoded_HWC), ("label", label_HWC)]


def _panel(bench: Bench, output: Output, decoded_HWC: np.ndarray) -> np.ndarray:
    colours = class_colours(bench.class_names)
    if isinstance(output, Detections):
        return draw_detections(decoded_HWC, output, bench.class_names, colours)
    return colourise(output, colours)


def _decoded_picture(bench: Bench, candidate: Candidate, row: int) -> np.ndarray:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    coded = coded_size(height, width)
    codec_id = candidate.spec.codec_id
    y_hat_BCHW = bench.latents(codec_id).read([row])
    y_hat_BCHW = y_hat_BCHW[..., : coded[0] // LATENT_STRIDE, : coded[1] // LATENT_STRIDE]
    x_hat_BCHW = bench.codec(codec_id).reconstruct(torch.from_numpy(y_hat_BCHW))
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _map_path(folder: Path, key: str, row: int) -> Path:
    return folder / f"{key}-maps" / f"{row:06d}.png"


def _boxes_path(folder: Path, key: str, row: int) -> Path:
    return folder / f"{key}-boxes" / f"{row:06d}.json"


def _title(point: Point, points: Sequence[Point]) -> str:
    several = len({p.codec_id for p in points}) > 1
    suffix = f" {point.codec_id[-8:]}" if several else ""
    return f"{point.label}{suffix}, {point.bpp:.3f} bpp"


def _file_name(sample_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", sample_id)[:80]
