"""Presets of a training: flags that fit a machine, and give way to those that are given.

A preset is defaults: what the command line says wins, and `config.json` has what came of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from training.tasks.registry import TASKS

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "backbone": "mobilenet_v2", "crop": 256, "batch_size": 4, "amp": "off", "device": "cpu",
    },
    "24gb": {"backbone": "resnet50", "crop": 512, "batch_size": 8, "amp": "bf16"},
    "80gb": {"backbone": "resnet101", "crop": 768, "batch_size": 12, "amp": "bf16"},
}  # fmt: skip
"""By name. Of DeepLab v3 under autocast to bfloat16, the tensors that backward needs, counted, and
weights with gradients and Adam's moments have 9.4 GiB with `24gb` and 49 GiB with `80gb`; the rest
is for kernels' workspaces."""


def add_preset_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--preset`, whose help lists what each sets."""
    lists = "; ".join(
        f"{name}: {' '.join(f'--{flag} {value}' for flag, value in flags.items())}"
        for name, flags in PRESETS.items()
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"defaults that fit a machine; flags that are given win. {lists}. A network that "
        "starts from another keeps its backbone, boxes their whole pictures",
    )


def parse_with_preset(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses flags whose defaults are those of the `--preset` among them."""
    args = parser.parse_args(argv)
    if args.preset is None:
        return args
    parser.set_defaults(**_fitting(PRESETS[args.preset], args))
    return parser.parse_args(argv)


def _fitting(preset: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Returns those flags of a preset that go with the others."""
    left_out = set()
    if getattr(args, "init", "scratch") != "scratch" or getattr(args, "init_from", None):
        left_out.add("backbone")
    asked = {getattr(args, flag, None) for flag in ("task", "voc_task", "annotations")}
    for task in TASKS.values():
        if asked & {task.name, task.annotations.component} and not task.annotations.crop:
            left_out.add("crop")
    return {name: value for name, value in preset.items() if name not in left_out}
