"""`make demo`: the whole chain on generated street scenes, with the commands a user would type.

Scenes, teacher, encoding, a dynamic network with a rate-aware gate, masks, ranked latents, two
static networks, evaluation, and one new scene sent through a stream file. Then a short chain with
boxes, in VOC's layout, where a detector learns from latents. It ends with checks: did every network
learn, does it look at its input, is the ranking decided by its score?
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

import latent_store
from latent_store.console import MOST_SEED, Number, make_parser, run_command
from latent_store.errors import JobFailedError, LatentStoreError
from pipelines import encode, frequency, generate_scenes, reorder, train_teacher
from pipelines.scenes.scene import render_scene
from pipelines.scenes.voc_scenes import VocScenes
from training import detect, evaluate, segment, train

COMMANDS = {
    "generate-scenes": generate_scenes.main,
    "train-teacher": train_teacher.main,
    "encode-to-store": encode.main,
    "train-from-store": train.main,
    "channel-frequency": frequency.main,
    "reorder-latents": reorder.main,
    "evaluate-from-store": evaluate.main,
    "segment": segment.main,
    "detect": detect.main,
}

# The amount of work: a few minutes on two cores.
SIZE = {"height": 128, "width": 256}
SCENES = {"train": 128, "val": 24}
MORE_SCENES = 64
"""Of each further city, drawn where two channels tie at a cut of the ranking."""
CITIES = 6
TEACHER_STEPS, STATIC_STEPS = 110, 55
DYNAMIC_STEPS = 110
"""More than for static networks: the gate's noise hides half of what is seen."""
SCHEDULE = {"batch_size": 8, "learning_rate": 5e-4}
"""Half of the default rate; with so few steps a larger one ends in noise."""
BOX_SCENES = {"train": 192, "val": 24, "longest": 128}
BOX_SCHEDULE = {"max_steps": 200, "batch_size": 4, "learning_rate": 2e-3}
"""From random weights: enough to look at the picture, far from a good detector."""

RANKING, BOX_RANKING = "gate", "variance"
KEEPS, BOX_KEEP = (32, 16), 32
TRAIN = "train-from-store --transform_init fresh"
"""From nothing: a computed start wants a longer schedule than minutes, and scored less in them."""
YEAR = 2007
NEW_SCENE = 900_000
"""Index of the scenes that are looked at at the end; neither training nor validation has them."""
NEW_SEED = 1000
"""Further cities' scenes are of another family than the first one's."""
_LEARNED = 3.0
_LOOKS = 0.5

_say = partial(print, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo."""
    parser = make_parser("demo", __doc__ or "")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to fill")
    seed = Number(int, most=MOST_SEED)
    parser.add_argument("--seed", type=seed, default=0, help="of scenes and networks")
    args = parser.parse_args(argv)
    return run_command("demo", lambda: run_demo(args.output, args.seed))


def run_demo(out: Path, seed: int) -> int:
    """Runs every step in a new folder and checks what came out.

    Raises:
        JobFailedError: A step failed, or a check did not hold.
    """
    start = time.monotonic()
    _make_room(out)
    maps = _Maps(out, seed)
    results, boxes = maps.run(), run_boxes(out, seed)
    problems = _problems(results, "mIoU", _LEARNED) + _ranking_problems(maps.store)
    problems += _problems(boxes, "AP50")
    _say(
        f"\nThe whole chain took {time.monotonic() - start:.0f} s. Look at:\n"
        f"  {out}/evaluation/report.html        curves, pictures and tables, in a browser\n"
        f"  {out}/evaluation/report.md          the tables\n"
        f"  {out}/evaluation/pictures/          label and maps, side by side\n"
        f"  {out}/segment/                      the new scene: stream file, map, overlay\n"
        f"  {out}/boxes/                        the same for a detector, and its boxes drawn\n"
        f"  latent-store inspect {out}/scenes.zarr"
    )
    if problems:
        raise JobFailedError("; ".join(problems))
    return 0


class _Maps:
    """The first leg: segmentation, on street scenes in Cityscapes' layout."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.data, self.store = out / "scenes", out / "scenes.zarr"
        self.where: dict[str, Any] = {"store": self.store, "dataset": "cityscapes"}

    def run(self) -> Path:
        """Runs every step; returns the results of the evaluation, a JSON file."""
        evaluation = self.out / "evaluation"
        run_shown("generate-scenes", output=self.data, seed=self.seed, **SCENES, **SIZE)
        teacher = self._train(
            "train-teacher --dataset cityscapes --backbone resnet18 --aspp_width 64 "
            "--pretrained none",
            *("teacher", TEACHER_STEPS),
            data_root=self.data,
        )
        for split in ("train", "val"):
            self._encode(split, teacher)
        command = f"{TRAIN} --selection dynamic --gate_pool rms --rate_weight 0.5"
        dynamic = self._train(command, "dynamic", DYNAMIC_STEPS, **self.where)
        self._rank(teacher, dynamic)
        for split in ("train", "val"):
            run_shown("reorder-latents", **self.where, split=split, ranking=RANKING)
        command = f"{TRAIN} --selection static --mask {RANKING} --keep"
        static = [
            self._train(f"{command} {keep}", f"static-{keep}", STATIC_STEPS, **self.where)
            for keep in KEEPS
        ]
        run_shown(
            "evaluate-from-store --split val --permute_latents",
            **self.where,
            data_root=self.data,
            output=evaluation,
            checkpoint=(teacher, dynamic, *static),
        )
        picture = self.out / "new_scene.png"
        Image.fromarray(render_scene(self.seed, NEW_SCENE, *SIZE.values()).image_HWC).save(picture)
        run_shown("segment", checkpoint=static[-1], image=picture, output=self.out / "segment")
        return evaluation / "results.json"

    def _encode(self, split: str, teacher: Path) -> None:
        flags = {"data_root": self.data, "split": split, "teacher_checkpoint": teacher}
        run_shown("encode-to-store --demo_codec", **self.where, **flags)

    def _train(self, command: str, name: str, steps: int, **flags: object) -> Path:
        command = f"{command} --crop 128 --validate_epochs 0 --max_steps {steps}"
        run_shown(command, **flags, output=self.out / name, seed=self.seed, **SCHEDULE)
        return self.out / name / "last.pt"

    def _rank(self, teacher: Path, dynamic: Path) -> None:
        """Ranks the channels; a further city joins the store where two channels tie at a cut."""
        for city in range(CITIES):
            if city:
                _say("\nA cut runs through a tie; another city's scenes are added, to decide it.")
                command = f"generate-scenes --overwrite --city procedural{city + 1} --val 0"
                seed = NEW_SEED + self.seed + city
                run_shown(command, output=self.data, seed=seed, train=MORE_SCENES, **SIZE)
                self._encode("train", teacher)
            run_shown(
                "channel-frequency --split train --overwrite",
                **{**self.where, "checkpoint": dynamic, "ranking": RANKING, "keep": KEEPS},
            )
            if not _ranking_problems(self.store):
                return


def run_boxes(out: Path, seed: int) -> Path:
    """Runs the second leg: detection in VOC's layout; returns its evaluation's results, JSON."""
    data, url, folder = out / "VOCdevkit", out / "voc.zarr", out / "boxes"
    side = BOX_SCENES["longest"]
    run_shown("generate-scenes --layout voc", output=data, seed=seed, year=YEAR, **BOX_SCENES)
    command = f"encode-to-store --dataset voc --voc_task detection --demo_codec --year {YEAR}"
    for split in ("train", "val"):
        run_shown(command, data_root=data, split=split, store=url, canvas=(side, side))
    where = {"store": url, "dataset": f"voc{YEAR}"}
    ranked = {"ranking": BOX_RANKING, "keep": BOX_KEEP}
    run_shown("channel-frequency --split train --method variance", **where, **ranked)
    for split in ("train", "val"):
        run_shown("reorder-latents", **where, split=split, ranking=BOX_RANKING)
    run_shown(
        "train-from-store --task detection --teacher none --lambda_kd 0 --init scratch "
        "--selection static --backbone resnet18 --fpn_width 32 --box_head_width 64 --anchor_size 8 "
        f"--validate_epochs 0 --mask {BOX_RANKING} --keep {BOX_KEEP}",
        **{**where, "output": folder / "static", "seed": seed, **BOX_SCHEDULE},
    )
    checkpoint, evaluation = folder / "static/last.pt", folder / "evaluation"
    run_shown(
        "evaluate-from-store --split val --permute_latents --pictures 2",
        **{**where, "output": evaluation, "checkpoint": checkpoint},
    )
    picture = out / "new_scene.jpg"
    scene = VocScenes(seed=seed, longest=side).scene(NEW_SCENE)
    Image.fromarray(scene.image_HWC).save(picture)
    output = folder / "detect"
    run_shown("detect --least_score 0.1", checkpoint=checkpoint, image=picture, output=output)
    return evaluation / "results.json"


def run_shown(command: str, **flags: object) -> None:
    """Runs a command in this process, shown as it would be typed.

    Args:
        command: Its name, and flags if one likes.
        flags: Further flags, by name; a tuple is several values of one.

    Raises:
        JobFailedError: It ended with another status than 0.
    """
    words = command.split()
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    _say(f"\n$ {shlex.join(words)}")
    start = time.monotonic()
    status = COMMANDS[words[0]](words[1:])
    _say(f"({time.monotonic() - start:.0f} s)")
    if status:
        raise JobFailedError(f"{words[0]} ended with status {status}; its error is above")


def _problems(results: Path, measure: str, learned: float = 0.0) -> list[str]:
    """Returns what is wrong: a score below `learned` times a constant answer's, or a blind one."""
    problems = []
    for point in json.loads(results.read_text())["points"]:
        found = f"{point['label']} has {measure} {point['score']:.4f}"
        if learned and point["score"] < learned * point["constant_score"]:
            problems.append(f"{found}, {point['constant_score']:.4f} constant")
        if point["permuted_score"] >= _LOOKS * point["score"]:
            problems.append(f"{found}, {point['permuted_score']:.4f} permuted")
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


if __name__ == "__main__":
    sys.exit(main())
