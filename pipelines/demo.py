"""`make demo`: the whole chain on generated street scenes, with the commands a user would type.

Scenes, teacher, encoding, a dynamic network with a rate-aware gate, masks, ranked latents, two
static networks, evaluation, and one new scene sent through a stream file. Then a short chain with
boxes, in VOC's layout: `pipelines.demo_boxes`. It ends with checks: did every network learn, does
it look at its input, is the ranking decided by its score?
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import latent_store
from latent_store.console import MOST_SEED, Number, make_parser, run_command
from latent_store.errors import JobFailedError, LatentStoreError
from pipelines.demo_boxes import BoxesScale, find_problems, run_boxes
from pipelines.demo_commands import run_shown, say
from pipelines.scenes.scene import render_scene

RANKING = "gate"
TRAIN = "train-from-store --transform_init fresh"
"""From nothing: a computed start wants a longer schedule than minutes, and scored less in them."""
KEEPS = (32, 16)
NEW_SCENE = 900_000
"""Index of the scene that is segmented at the end; neither training nor validation has it."""
NEW_SEED = 1000
"""Further cities' scenes are of another family than the first one's."""
_LEARNED = 3.0
_LOOKS = 0.5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The amount of work of the demo; the defaults take a few minutes on two cores.

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
    seed = Number(int, most=MOST_SEED)
    parser.add_argument("--seed", type=seed, default=0, help="of scenes and networks")
    args = parser.parse_args(argv)
    return run_command("demo", lambda: run_demo(args.output, Scale(), args.seed))


def run_demo(out: Path, scale: Scale, seed: int) -> int:
    """Runs every step in a new folder and checks what came out.

    Raises:
        JobFailedError: A step failed, or a check did not hold.
    """
    start = time.monotonic()
    _make_room(out)
    maps = _Maps(out, scale, seed)
    results = maps.run()
    boxes = run_boxes(out, BoxesScale(), seed)
    problems = _network_problems(results) + _ranking_problems(maps.store) + find_problems(boxes)
    say(_closing(out, time.monotonic() - start))
    if problems:
        raise JobFailedError("; ".join(problems))
    return 0


class _Maps:
    """The first leg: segmentation, on street scenes in Cityscapes' layout."""

    def __init__(self, out: Path, scale: Scale, seed: int) -> None:
        self.out, self.scale, self.seed = out, scale, seed
        self.data, self.store = out / "scenes", out / "scenes.zarr"
        self.where: dict[str, Any] = {"store": self.store, "dataset": "cityscapes"}

    def run(self) -> Path:
        """Runs every step; returns the results of the evaluation, a JSON file."""
        scale, evaluation = self.scale, self.out / "evaluation"
        self._generate("generate-scenes", seed=self.seed, train=scale.train, val=scale.val)
        teacher = self._train(
            "train-teacher --dataset cityscapes --backbone resnet18 --aspp_width 64",
            *("teacher", scale.teacher_steps),
            data_root=self.data,
        )
        for split in ("train", "val"):
            self._encode(split, teacher)
        dynamic = self._train(
            f"{TRAIN} --selection dynamic --gate_pool rms",
            *("dynamic", scale.dynamic_steps),
            **self.where,
            rate_weight=scale.rate_weight,
        )
        self._rank(teacher, dynamic)
        for split in ("train", "val"):
            run_shown("reorder-latents", **self.where, split=split, ranking=RANKING)
        command = f"{TRAIN} --selection static --mask {RANKING} --keep"
        static = [
            self._train(f"{command} {keep}", f"static-{keep}", scale.static_steps, **self.where)
            for keep in KEEPS
        ]
        run_shown(
            "evaluate-from-store --split val --permute_latents",
            **self.where,
            output=evaluation,
            checkpoint=(teacher, dynamic, *static),
        )
        self._segment(static[-1])
        return evaluation / "results.json"

    def _generate(self, command: str, **flags: object) -> None:
        size = {"height": self.scale.height, "width": self.scale.width}
        run_shown(command, output=self.data, **flags, **size)

    def _encode(self, split: str, teacher: Path) -> None:
        flags = {"data_root": self.data, "split": split, "teacher_checkpoint": teacher}
        run_shown("encode-to-store --demo_codec", **self.where, **flags)

    def _train(self, command: str, name: str, steps: int, **flags: object) -> Path:
        run_shown(
            f"{command} --crop 128 --validate_epochs 0",
            **flags,
            output=self.out / name,
            seed=self.seed,
            max_steps=steps,
            batch_size=self.scale.batch_size,
            learning_rate=self.scale.learning_rate,
        )
        return self.out / name / "last.pt"

    def _rank(self, teacher: Path, dynamic: Path) -> None:
        """Ranks the channels; a further city joins the store where two channels tie at a cut."""
        for city in range(self.scale.cities):
            if city:
                say("\nA cut runs through a tie; another city's scenes are added, to decide it.")
                command = f"generate-scenes --overwrite --city procedural{city + 1} --val 0"
                self._generate(command, seed=NEW_SEED + self.seed + city, train=self.scale.more)
                self._encode("train", teacher)
            run_shown(
                "channel-frequency --split train --overwrite",
                **{**self.where, "checkpoint": dynamic, "ranking": RANKING, "keep": KEEPS},
            )
            if not _ranking_problems(self.store):
                return

    def _segment(self, checkpoint: Path) -> None:
        picture, output = self.out / "new_scene.png", self.out / "segment"
        scene = render_scene(self.seed, NEW_SCENE, self.scale.height, self.scale.width)
        Image.fromarray(scene.image_HWC).save(picture)
        run_shown("segment", checkpoint=checkpoint, image=picture, output=output)


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
