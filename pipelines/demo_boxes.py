"""The demo's second leg: a detector learns from latents, on street scenes in VOC's layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.demo_commands import run_shown
from pipelines.scenes.voc_scenes import VocScenes

YEAR = 2007
RANKING = "variance"
KEEP = 32
NEW_SCENE = 900_000
"""Index of the scene that is looked at at the end; neither split has it."""
_LOOKS = 0.5


@dataclass(frozen=True, kw_only=True)
class BoxesScale:
    """The amount of work of this leg; about a minute on two cores.

    Attributes:
        longest: Side of the pictures, in pixels.
        steps: From random weights: enough to look at the picture, far from a good detector.
    """

    train: int = 192
    val: int = 24
    longest: int = 128
    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 2e-3


def run_boxes(out: Path, scale: BoxesScale, seed: int) -> Path:
    """Runs every step.

    Returns:
        The results of the evaluation, a JSON file.

    Raises:
        JobFailedError: A step failed.
    """
    data, url, folder = out / "VOCdevkit", out / "voc.zarr", out / "boxes"
    size = {"train": scale.train, "val": scale.val, "longest": scale.longest}
    run_shown("generate-scenes --layout voc", output=data, seed=seed, year=YEAR, **size)
    canvas = (scale.longest, scale.longest)
    for split in ("train", "val"):
        run_shown(
            "encode-to-store --dataset voc --voc_task detection --demo_codec",
            year=YEAR,
            data_root=data,
            split=split,
            store=url,
            canvas=canvas,
        )
    where = {"store": url, "dataset": f"voc{YEAR}"}
    ranked = {"ranking": RANKING, "keep": KEEP}
    run_shown("channel-frequency --split train --method variance", **where, **ranked)
    for split in ("train", "val"):
        run_shown("reorder-latents", **where, split=split, ranking=RANKING)
    run_shown(
        "train-from-store --task detection --teacher none --lambda_kd 0 --init scratch "
        "--selection static --backbone resnet18 --fpn_width 32 --box_head_width 64 --anchor_size 8 "
        "--validate_epochs 0",
        **where,
        output=folder / "static",
        seed=seed,
        mask=RANKING,
        keep=KEEP,
        max_steps=scale.steps,
        batch_size=scale.batch_size,
        learning_rate=scale.learning_rate,
    )
    checkpoint, evaluation = folder / "static/last.pt", folder / "evaluation"
    run_shown(
        "evaluate-from-store --split val --permute_latents --pictures 2",
        **{**where, "output": evaluation, "checkpoint": checkpoint},
    )
    picture = out / "new_scene.jpg"
    scene = VocScenes(seed=seed, longest=scale.longest).scene(NEW_SCENE)
    Image.fromarray(scene.image_HWC).save(picture)
    output = folder / "detect"
    run_shown("detect --least_score 0.1", checkpoint=checkpoint, image=picture, output=output)
    return evaluation / "results.json"


def find_problems(results: Path) -> list[str]:
    """Returns what is wrong with the detector; nothing if it found what is in its pictures."""
    return [
        f"{point['label']} has AP50 {point['score']:.4f}, {point['permuted_score']:.4f} permuted"
        for point in json.loads(results.read_text())["points"]
        if point["permuted_score"] >= _LOOKS * point["score"]
    ]
