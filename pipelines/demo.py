"""`make demo`: the whole chain on generated street scenes, with the commands a user would type.

Scenes, teacher, encoding, a dynamic network with a rate-aware gate, masks, ranked latents, two
static networks, evaluation, and one new scene sent through a stream file. Then a short chain with
boxes, in VOC's layout: `pipelines.demo_boxes`. It ends with checks: did every network learn, does
it look at its input, is the ranking decided by its score?
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import latent_store
from latent_store.console import make_parser, run_command
from latent_store.errors import JobFailedError, LatentStoreError
from pipelines import demo_boxes, encode, frequency, generate_scenes, reorder, train_teacher
from pipelines.demo_commands import run_shown, say
from pipelines.scenes.scene import render_scene
from training import evaluate, segment, train

RANKING = "gate"
KEEPS = (32, 16)
NEW_SCENE = 900_000
"""Index of the scene that is segmented at the end; neither training nor validation has it."""
NEW_SEED = 1000
"""Further cities' scenes are of another family than the first one's."""
_LEARNED = 3.0
_LOOKS = 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much the demo does; the defaults take a few minutes on two cores.

    Attributes:
        train: Training scenes to begin with.
        more: Scenes of each further city, drawn where two channels tie at a cut of the ranking.
        cities: How many cities there can be.
        dynamic_steps: More than for static networks: the gate's noise hides half of what is seen.
        learning_rate: Half of the default; with so few steps a larger one ends in noise.
    """

    train: int = 128
    more: int = 64
    cities: int = 6
    val: int = 24
    height: int = 128
    width: int = 256
    teacher_steps: int = 110
    dynamic_steps: int = 110
    static_steps: int = 55
    batch_size: int = 8
    learning_rate: float = 5e-4
    rate_weight: float = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo."""
    parser = make_parser("demo", __doc__ or "")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to fill")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and networks")
    args = parser.parse_args(argv)
    return run_command("demo", lambda: run_demo(args, Size()))


def run_demo(args: argparse.Namespace, size: Size) -> int:
    """Runs every step in a new folder and checks what came out.

    Raises:
        JobFailedError: A step failed, or a check did not hold.
    """
    start = time.monotonic()
    out: Path = args.output
    _make_room(out)
    data, store = out / "scenes", out / "scenes.zarr"
    _generate(data, size, args.seed, "--train", size.train, "--val", size.val)
    teacher = _train_teacher(data, out, size, args.seed)
    for split in ("train", "val"):
        _encode(data, store, split, teacher)
    dynamic = _train(store, out / "dynamic", size, args.seed, *_dynamic_flags(size))
    _rank(data, store, teacher, dynamic, size, args.seed)
    where = ("--store", store, "--dataset", "cityscapes")
    for split in ("train", "val"):
        run_shown(reorder.main, "reorder-latents", *where, "--split", split, "--ranking", RANKING)
    static = [
        _train(
            store,
            out / f"static-{keep}",
            size,
            args.seed,
            *("--selection", "static", "--mask", RANKING, "--keep", keep),
            *("--max_steps", size.static_steps),
        )
        for keep in KEEPS
    ]
    run_shown(
        evaluate.main,
        "evaluate-from-store",
        *(*where, "--split", "val", "--output", out / "evaluation", "--permute_latents"),
        *("--checkpoint", teacher, dynamic, *static),
    )
    _segment(out, size, args.seed, static[-1])
    boxes = demo_boxes.run_boxes(out, demo_boxes.Size(), args.seed)
    problems = [
        *(*_network_problems(out / "evaluation/results.json"), *_ranking_problems(store)),
        *demo_boxes.find_problems(boxes),
    ]
    say(_closing(out, time.monotonic() - start))
    if problems:
        raise JobFailedError("; ".join(problems))
    return 0


def _dynamic_flags(size: Size) -> tuple[object, ...]:
    return (
        *("--selection", "dynamic", "--gate_pool", "rms", "--rate_weight", size.rate_weight),
        *("--max_steps", size.dynamic_steps),
    )


def _generate(data: Path, size: Size, seed: int, *more: object) -> None:
    run_shown(
        generate_scenes.main,
        "generate-scenes",
        *("--output", data, "--seed", seed, *more),
        *("--height", size.height, "--width", size.width),
    )


def _encode(data: Path, store: Path, split: str, teacher: Path) -> None:
    run_shown(
        encode.main,
        "encode-to-store --dataset cityscapes",
        *("--data_root", data, "--split", split, "--store", store, "--demo_codec"),
        *("--teacher_checkpoint", teacher),
    )


def _rank(data: Path, store: Path, teacher: Path, dynamic: Path, size: Size, seed: int) -> None:
    """Ranks the channels; a further city joins the store where two channels tie at a cut."""
    for city in range(size.cities):
        if city:
            say("\nA cut runs through a tie; another city's scenes are added, to decide it.")
            name = f"procedural{city + 1}"
            _generate(
                *(data, size, NEW_SEED + seed + city, "--city", name, "--overwrite"),
                *("--train", size.more, "--val", 0),
            )
            _encode(data, store, "train", teacher)
        run_shown(
            frequency.main,
            "channel-frequency --dataset cityscapes --split train --overwrite",
            *("--store", store, "--checkpoint", dynamic, "--ranking", RANKING),
            *("--keep", *KEEPS),
        )
        if not _ranking_problems(store):
            return


def _train_teacher(data: Path, out: Path, size: Size, seed: int) -> Path:
    run_shown(
        train_teacher.main,
        "train-teacher --dataset cityscapes --backbone resnet18 --aspp_width 64",
        *("--data_root", data, "--output", out / "teacher", "--seed", seed),
        *("--max_steps", size.teacher_steps, *_training_flags(size)),
    )
    return out / "teacher/last.pt"


def _train(store: Path, output: Path, size: Size, seed: int, *more: object) -> Path:
    run_shown(
        train.main,
        "train-from-store --dataset cityscapes",
        *("--store", store, "--output", output, "--seed", seed, *more),
        *_training_flags(size),
    )
    return output / "last.pt"


def _training_flags(size: Size) -> tuple[object, ...]:
    return (
        *("--batch_size", size.batch_size, "--crop", 128, "--validate_epochs", 0),
        *("--learning_rate", size.learning_rate),
    )


def _segment(out: Path, size: Size, seed: int, checkpoint: Path) -> None:
    picture = out / "new_scene.png"
    scene = render_scene(seed, NEW_SCENE, size.height, size.width)
    Image.fromarray(scene.image_HWC).save(picture)
    run_shown(
        segment.main,
        "segment",
        *("--checkpoint", checkpoint, "--image", picture, "--output", out / "segment"),
    )


def _network_problems(results: Path) -> list[str]:
    """Returns what is wrong with the trained networks; nothing if they learned."""
    problems = []
    for point in json.loads(results.read_text())["points"]:
        miou, constant = point["score"], point["constant_score"]
        if miou < _LEARNED * constant:
            problems.append(f"{point['label']} has mIoU {miou:.3f}, constant {constant:.3f}")
        if point["permuted_score"] > _LOOKS * miou:
            problems.append(f"{point['label']} keeps {point['permuted_score']:.3f} when permuted")
    return problems


def _ranking_problems(url: Path) -> list[str]:
    store = latent_store.open(url)
    ranking = store.ranking(store.codec().codec_id, RANKING)
    tied = {keep: ranking.tied_at_cut[keep] for keep in KEEPS}
    return [f"the cut at {keep} is undetermined ({n} tied)" for keep, n in tied.items() if n]


def _make_room(out: Path) -> None:
    """Removes an earlier demo's output, and refuses a folder that is something else's."""
    marker = out / ".demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise LatentStoreError(f"--output {out} holds something else; give a new folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _closing(out: Path, seconds: float) -> str:
    return (
        f"\nThe whole chain took {seconds:.0f} s. Look at:\n"
        f"  {out}/evaluation/report.md          the table\n"
        f"  {out}/evaluation/rate_miou.png      rate against mIoU\n"
        f"  {out}/evaluation/pictures/          label and maps, side by side\n"
        f"  {out}/segment/                      the new scene: stream file, map, overlay\n"
        f"  {out}/boxes/                        the same for a detector, and its boxes drawn\n"
        f"  latent-store inspect {out}/scenes.zarr"
    )


if __name__ == "__main__":
    sys.exit(main())
