"""`generate-scenes`: writes procedural street scenes in the folder layout of Cityscapes, or of VOC.

Whatever reads these datasets reads the result, so the whole chain runs without a downloaded one.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import make_parser, run_command
from pipelines.scenes.sets import SceneError, SceneSet
from training.flags import add_flags, flag_types

COMMAND = "generate-scenes"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `generate-scenes`; returns the exit status (2 for bad usage)."""
    return run_command(COMMAND, lambda: _run(make_flags().parse_args(argv)))


def layouts() -> dict[str, type[SceneSet]]:
    """Returns the kinds of scene sets, by the names of `--layout`."""
    # They load Pillow, which only an extra brings.
    from pipelines.scenes.cityscapes_scenes import CityscapesScenes
    from pipelines.scenes.voc_scenes import VocScenes

    return {"cityscapes": CityscapesScenes, "voc": VocScenes}


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    what = "Write procedural street scenes in the folder layout of Cityscapes or PASCAL VOC."
    parser = make_parser(COMMAND, what)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="the dataset's root")
    add("--layout", choices=sorted(layouts()), default="cityscapes", help="layout of the folders")
    add("--overwrite", action="store_true", help="replace this city's or year's pictures")
    add_flags(parser, SceneSet, "scenes")
    for layout, kind in layouts().items():
        add = parser.add_argument_group(f"layout {layout}").add_argument
        for name, field in _own_fields(kind).items():
            # Without defaults, so that what the layout does not know is refused.
            text = f"{field.metadata['help']} (default: {field.default})"
            add(f"--{name}", type=flag_types(kind)[name], help=text)
    return parser


def _own_fields(kind: type[SceneSet]) -> dict[str, dataclasses.Field[object]]:
    common = SceneSet.__dataclass_fields__
    return {name: one for name, one in kind.__dataclass_fields__.items() if name not in common}


def _run(args: argparse.Namespace) -> int:
    kind = layouts()[args.layout]
    given = {name: value for name, value in vars(args).items() if value is not None}
    for layout, other in layouts().items():
        strange = given.keys() & _own_fields(other).keys() - _own_fields(kind).keys()
        if strange:
            raise SceneError(
                f"--{min(strange)} is of --layout {layout}, not of {args.layout}; leave it out"
            )
    scenes = kind(**{name: given[name] for name in given.keys() & kind.__dataclass_fields__})
    count = scenes.generate(args.output, overwrite=args.overwrite)
    print(f"{args.output}: {count} scenes of {scenes.size}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
