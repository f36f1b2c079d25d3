"""The demo's second leg: a detector learns from latents, on street scenes in VOC's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines import encode, frequency, generate_scenes, reorder
from pipelines.demo_commands import run_shown
from pipelines.scenes.voc_scenes import VocScenes
from training import detect, evaluate, train

YEAR = 2007
RANKING = "variance"
KEEP = 32
NEW_SCENE = 900_000
"""Index of the scene that is looked at at the end; neither split has it."""
_LOOKS = 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much this leg does; about a minute on two cores.

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


def run_boxes(out: Path, size: Size, seed: int) -> Path:
    """Runs every step.

    Returns:
        The results of the evaluation, a JSON file.

    Raises:
        JobFailedError: A step failed.
    """
    data, store, folder = out / "VOCdevkit", out / "voc.zarr", out / "boxes"
    run_shown(
        generate_scenes.main,
        "generate-scenes --layout voc",
        *("--output", data, "--seed", seed, "--year", YEAR),
        *("--train", size.train, "--val", size.val, "--longest", size.longest),
    )
    for split in ("train", "val"):
        run_shown(
            encode.main,
            "encode-to-store --dataset voc --voc_task detection",
            *("--year", YEAR, "--data_root", data, "--split", split, "--store", store),
            *("--demo_codec", "--canvas", size.longest, size.longest),
        )
    where = ("--store", store, "--dataset", f"voc{YEAR}")
    rank = ("--method", "variance", "--ranking", RANKING, "--keep", KEEP)
    run_shown(frequency.main, "channel-frequency --split train", *where, *rank)
    for split in ("train", "val"):
        run_shown(reorder.main, "reorder-latents", *where, "--split", split, "--ranking", RANKING)
    run_shown(
        train.main,
        "train-from-store --task detection --teacher none --lambda_kd 0 --init scratch",
        *(*where, "--output", folder / "static", "--seed", seed),
        *("--selection", "static", "--mask", RANKING, "--keep", KEEP),
        *_network_flags(size),
    )
    checkpoint = folder / "static/last.pt"
    run_shown(
        evaluate.main,
        "evaluate-from-store --split val --permute_latents --pictures 2",
        *(*where, "--output", folder / "evaluation", "--checkpoint", checkpoint),
    )
    picture = out / "new_scene.jpg"
    scene = VocScenes(seed=seed, longest=size.longest).scene(NEW_SCENE)
    Image.fromarray(scene.image_HWC).save(picture)
    run_shown(
        detect.main,
        "detect --least_score 0.1",
        *("--checkpoint", checkpoint, "--image", picture, "--output", folder / "detect"),
    )
    return folder / "evaluation/results.json"


def find_problems(results: Path) -> list[str]:
    """Returns what is wrong with the detector; nothing if it found what is in its pictures."""
    return [
        f"{point['label']} has AP50 {point['score']:.4f}, {point['permuted_score']:.4f} permuted"
        for point in json.loads(results.read_text())["points"]
        if point["permuted_score"] >= _LOOKS * point["score"]
    ]


def _network_flags(size: Size) -> Sequence[object]:
    return (
        *("--backbone", "resnet18", "--fpn_width", 32, "--box_head_width", 64),
        *("--anchor_size", 8, "--max_steps", size.steps, "--batch_size", size.batch_size),
        *("--learning_rate", size.learning_rate, "--validate_epochs", 0),
    )
