"""`make demo`: the whole chain on generated street scenes, with the commands a user would type.

Scenes, encoding, a dynamic network with a rate-aware gate, ranked latents, two static networks,
evaluation, and one new scene sent through a stream file. Then the same with boxes, in VOC's layout,
where a detector learns from latents. Teachers come with the package. It ends with one sentence of
verdict on each, and with checks: did every network learn, and does it look at its input?
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from latent_store.console import MOST_SEED, Number, make_parser, run_command
from latent_store.errors import JobFailedError, LatentStoreError
from pipelines import encode, frequency, generate_scenes, reorder
from pipelines.scenes.scene import render_scene
from pipelines.scenes.voc_scenes import VocScenes
from training import detect, evaluate, segment, train

COMMANDS = {
    "generate-scenes": generate_scenes.main,
    "encode-to-store": encode.main,
    "train-from-store": train.main,
    "channel-frequency": frequency.main,
    "reorder-latents": reorder.main,
    "evaluate-from-store": evaluate.main,
    "segment": segment.main,
    "detect": detect.main,
}
MEGABYTES = 140
LEAST = {"mIoU": 0.4, "AP50": 0.3}
"""A network that has less has not learned."""
LOOKS = 0.5
"""The most that is left of a score when every picture gets another one's latents."""
NEW_SCENE = 900_000
"""Index of the scenes that are looked at at the end; neither training nor validation has them."""
HEIGHT, WIDTH, LONGEST = 128, 256, 192
"""Pixels of the scenes for maps, and of the longer side of those for boxes."""

_say = partial(print, flush=True)


@dataclass(frozen=True)
class Stage:
    """One command of the chain.

    Attributes:
        title: What it does, in words.
        seconds: That it takes on two cores.
        command: As it would be typed; names in braces are filled in.
    """

    title: str
    seconds: float
    command: str

    def words(self, known: Mapping[str, object]) -> list[str]:
        """Returns the command's name and arguments; what is filled in may hold blanks."""
        return [word.format(**known) for word in shlex.split(self.command)]


_CITY = "--store {out}/scenes.zarr --dataset cityscapes"
_ENCODE = f"encode-to-store {_CITY} --data_root {{out}}/scenes --demo_codec"
_TRAIN = "train-from-store --crop 0 --validate_epochs 0 --no-safetensors --seed {seed}"
_MAPS = f"{_TRAIN} {_CITY} --batch_size 8 --distil_steps 60"
_STATIC = f"{_MAPS} --max_steps 60 --selection static --mask gate"
_VOC = "--store {out}/voc.zarr --dataset voc2007"
_ENCODE_VOC = "encode-to-store --dataset voc --voc_task detection --store {out}/voc.zarr"
_ENCODE_VOC += f" --data_root {{out}}/VOCdevkit --canvas {LONGEST} {LONGEST} --demo_codec"

MAPS = (
    Stage(
        "Drawing street scenes",
        10,
        "generate-scenes --plain --output {out}/scenes --seed {seed} --train 160 --val 32"
        f" --height {HEIGHT} --width {WIDTH}",
    ),
    Stage("Encoding them, once", 14, f"{_ENCODE} --split train --teacher_checkpoint {{maps}}"),
    Stage(
        "Encoding others to measure on", 4, f"{_ENCODE} --split val --teacher_checkpoint {{maps}}"
    ),
    Stage(
        "Training a gate that chooses channels, and a network on what it keeps",
        45,
        f"{_MAPS} --max_steps 80 --selection dynamic --gate_pool rms --rate_weight 1"
        " --output {out}/dynamic",
    ),
    Stage(
        "Counting what the gate keeps",
        2,
        f"channel-frequency {_CITY} --split train --ranking gate --keep 32 16"
        " --checkpoint {out}/dynamic/last.pt",
    ),
    Stage(
        "Putting the best channels first",
        4,
        f"reorder-latents {_CITY} --split train --ranking gate",
    ),
    Stage("Likewise", 2, f"reorder-latents {_CITY} --split val --ranking gate"),
    Stage(
        "Training a network on the best 32 of 192 channels",
        35,
        f"{_STATIC} --keep 32 --output {{out}}/static-32",
    ),
    Stage("Training one on the best 16", 35, f"{_STATIC} --keep 16 --output {{out}}/static-16"),
    Stage(
        "Measuring all on real bits",
        25,
        f"evaluate-from-store {_CITY} --split val --permute_latents --output {{out}}/evaluation"
        " --data_root {out}/scenes"
        " --checkpoint {maps} {out}/dynamic/last.pt {out}/static-32/last.pt"
        " {out}/static-16/last.pt",
    ),
    Stage(
        "Sending a new scene through a stream file",
        3,
        "segment --checkpoint {out}/static-16/last.pt --image {out}/new_scene.png"
        " --output {out}/segment",
    ),
)
"""The first leg: segmentation, in Cityscapes' layout."""
BOXES = (
    Stage(
        "Drawing scenes with boxes",
        20,
        "generate-scenes --plain --layout voc --output {out}/VOCdevkit --seed {seed} --year 2007"
        f" --train 160 --val 32 --longest {LONGEST}",
    ),
    Stage("Encoding them, once", 14, f"{_ENCODE_VOC} --split train --teacher_checkpoint {{boxes}}"),
    Stage(
        "Encoding others to measure on",
        4,
        f"{_ENCODE_VOC} --split val --teacher_checkpoint {{boxes}}",
    ),
    Stage(
        "Ranking channels by their variance",
        2,
        f"channel-frequency {_VOC} --split train --method variance --ranking variance --keep 32",
    ),
    Stage(
        "Putting the best channels first",
        4,
        f"reorder-latents {_VOC} --split train --ranking variance",
    ),
    Stage("Likewise", 2, f"reorder-latents {_VOC} --split val --ranking variance"),
    Stage(
        "Training a detector on the best 32 of 192 channels",
        85,
        f"{_TRAIN} {_VOC} --task detection --batch_size 4 --learning_rate 5e-4 --distil_steps 60"
        " --max_steps 100 --selection static --mask variance --keep 32 --output {out}/boxes/static",
    ),
    Stage(
        "Measuring it on real bits",
        20,
        f"evaluate-from-store {_VOC} --split val --permute_latents --pictures 2"
        " --output {out}/boxes/evaluation --checkpoint {boxes} {out}/boxes/static/last.pt",
    ),
    Stage(
        "Sending a new scene through a stream file",
        3,
        "detect --checkpoint {out}/boxes/static/last.pt --image {out}/new_scene.jpg"
        " --least_score 0.5 --output {out}/boxes/detect",
    ),
)
"""The second: detection, in VOC's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo."""
    parser = make_parser("demo", __doc__ or "")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to fill")
    seed = Number(int, most=MOST_SEED)
    parser.add_argument("--seed", type=seed, default=0, help="of scenes and networks")
    args = parser.parse_args(argv)
    return run_command("demo", lambda: run_demo(args.output, args.seed))


def run_demo(out: Path, seed: int) -> int:
    """Runs every stage in a new folder and checks what came out.

    Raises:
        JobFailedError: A stage failed, or a check did not hold.
    """
    # It loads torch, which parsing needs not.
    from pipelines.teacher_training.publishing import demo_teacher

    start = time.monotonic()
    _make_room(out)
    stages = (*MAPS, *BOXES)
    minutes = _clock(sum(one.seconds for one in stages))
    _say(
        "Latents of generated street scenes, and what networks see in a few of their channels:\n"
        f"{len(stages)} commands, about {minutes} minutes on two cores, {MEGABYTES} MB in {out}.\n"
        "The codec and the two teachers came with the package; all else is made now."
    )
    _write_new_scenes(out, seed)
    teachers = {"maps": demo_teacher("segmentation"), "boxes": demo_teacher("detection")}
    run_stages(stages, {"out": out, "seed": seed, **teachers})
    found = [read_points(out / folder) for folder in ("evaluation", "boxes/evaluation")]
    _say("\n" + "\n".join(map(verdict, found)))
    _say(
        f"\nIt took {_clock(time.monotonic() - start)} minutes and {_megabytes(out)} MB. Look at:\n"
        f"  {out}/evaluation/report.html        curves, pictures and tables, in a browser\n"
        f"  {out}/evaluation/report.md          the tables\n"
        f"  {out}/evaluation/pictures/          label and maps, side by side\n"
        f"  {out}/segment/                      a new scene: stream file, map, overlay\n"
        f"  {out}/boxes/                        the same for a detector, and its boxes drawn\n"
        f"  latent-store inspect {out}/scenes.zarr"
    )
    problems = [problem for points in found for problem in find_problems(points)]
    if problems:
        raise JobFailedError("; ".join(problems))
    return 0


def run_stages(stages: Sequence[Stage], known: Mapping[str, object]) -> None:
    """Runs commands in this process, each shown as it would be typed, with the time that is left.

    Args:
        stages: The commands, in their order.
        known: What is filled into them.

    Raises:
        JobFailedError: One ended with another status than 0.
    """
    start = time.monotonic()
    for number, one in enumerate(stages):
        left = sum(other.seconds for other in stages[number:])
        if number:  # at the pace of this machine
            left *= (time.monotonic() - start) / sum(other.seconds for other in stages[:number])
        words = one.words(known)
        _say(f"\n[{number + 1}/{len(stages)}] {one.title}; about {_clock(left)} left")
        _say(f"$ {shlex.join(words)}")
        status = COMMANDS[words[0]](words[1:])
        if status:
            raise JobFailedError(f"{words[0]} ended with status {status}; its error is above")


def read_points(folder: Path) -> list[dict[str, Any]]:
    """Returns what an evaluation measured of each network, in the order of its checkpoints."""
    points: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["points"]
    return points


def verdict(points: Sequence[Mapping[str, Any]]) -> str:
    """Returns in one sentence what the last network's channels save, and what they cost.

    Against the teacher, the first, which sees the decoded picture.
    """
    teacher, *_, last = points
    saved = 1 - last["bpp"] / teacher["bpp"]
    change = 100 * (last["score"] - teacher["score"])
    return (
        f"{last['keep']} of {last['channels_total']} channels: {saved:.0%} fewer bits than the "
        f"picture, {last['metric']} {change:+.1f} points ({last['score']:.3f}; the teacher on "
        f"decoded pictures {teacher['score']:.3f})."
    )


def find_problems(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what is wrong: networks that have not learned, or do not look at their input."""
    problems = []
    for point in points:
        least = LEAST[point["metric"]]
        found = f"{point['label']} has {point['metric']} {point['score']:.4f}"
        if point["score"] < least:
            problems.append(f"{found}, at least {least} are expected")
        if point["permuted_score"] > LOOKS * point["score"]:
            problems.append(
                f"{found}, {point['permuted_score']:.4f} with another picture's latents"
            )
    return problems


def _write_new_scenes(out: Path, seed: int) -> None:
    scene = render_scene(seed, NEW_SCENE, HEIGHT, WIDTH, plain=True)
    Image.fromarray(scene.image_HWC).save(out / "new_scene.png")
    scene = VocScenes(seed=seed, longest=LONGEST, plain=True).scene(NEW_SCENE)
    Image.fromarray(scene.image_HWC).save(out / "new_scene.jpg")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _megabytes(folder: Path) -> int:
    """Returns what a folder takes; a file of several names counts once."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return round(sum({one.st_ino: one.st_size for one in found}.values()) / 1e6)


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
