"""The flags of `latent-store` and of each of its actions."""

from __future__ import annotations

import argparse
from pathlib import Path

from latent_store.console import Number, add_storage_flag, make_parser
from latent_store.storage.object_stores import input_file

DESCRIPTION = """
Looks at a latent store, checks it, closes it, decodes its pictures, and takes them out as stream
files, which decode without the store. Merges the rankings of several tasks into the order of one
stream that serves them all. Each action has a --help of its own.
"""
EXAMPLES = {
    "inspect": """
  latent-store inspect cityscapes.zarr
  latent-store inspect cityscapes.zarr --json | jq .bytes_of
""",
    "verify": """
  latent-store verify cityscapes.zarr --deep
  latent-store verify cityscapes.zarr --repair
""",
    "finalize": """
  latent-store finalize gs://bucket/cityscapes.zarr
""",
    "decode": """
  latent-store decode cityscapes.zarr --sample aachen_000000_000019 --ranking gate \\
      --channels 16 32 64 128 all --strip --output channels.png
  latent-store decode aachen.stream --channels 16 --store cityscapes.zarr --output x16.png
""",
    "export": """
  latent-store export cityscapes.zarr --sample aachen_000000_000019 --ranking gate \\
      --output aachen.stream
""",
    "share": """
  latent-store share voc.zarr --rankings segmentation detection --name both --split voc2012/trainval
""",
    "selfcheck": """
  latent-store selfcheck cityscapes.zarr --max_samples 8
""",
    "doctor": """
  latent-store doctor
  latent-store doctor cityscapes.zarr --json
""",
}
"""By action."""


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    every = "".join(text[1:] for text in EXAMPLES.values())
    parser = make_parser("latent-store", DESCRIPTION, f"examples:\n{every}")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        epilog = f"examples:{EXAMPLES[name]}"
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=epilog
        )
        return action

    inspect = add("inspect", "what the store holds, and what it costs")
    verify = add("verify", "is it what was written? exits 1 if not")
    verify.add_argument("--deep", action="store_true", help="decode every stream (loads torch)")
    verify.add_argument("--repair", action="store_true", help="drop what is broken, for a rerun")
    close = add("finalize", "close what killed jobs have left whole")
    check = add("selfcheck", "do streams decode alike under all settings?")
    check.add_argument("--codec", help="codec id (default: the only one)")
    few = "only the first N samples of each split"
    check.add_argument("--max_samples", type=Number(int, 1), help=few)
    check.add_argument("--device", default="cpu", help="cpu, or cuda: also decode there")
    export = add("export", "one sample, as a stream file")
    share = add("share", "one order of channels for several tasks' rankings")
    decode = add("decode", "one picture, from all channels or a few")
    doctor = add("doctor", "is what is installed here fit to run? exits 1 if not")
    for action in (inspect, verify, close, check, export, share):
        action.add_argument("url", metavar="URL", help="folder or URL of the store")
    decode.add_argument("url", metavar="URL|FILE", help="a store, or a stream file")
    on_disk = "a store whose disk is looked at (default: the working folder's)"
    doctor.add_argument("url", metavar="URL", nargs="?", help=on_disk)
    _add_decode_flags(decode)
    for action in (inspect, verify, close, check, export, share, decode, doctor):
        add_storage_flag(action)
    export.add_argument("--sample", required=True, help="sample id")
    export.add_argument("--channels", default="all", help="all, or N: up to that cut")
    export.add_argument("--output", type=Path, required=True, help="stream file to write")
    share.add_argument("--rankings", nargs="+", required=True, help="the tasks' rankings")
    share.add_argument("--name", required=True, help="name of the ranking to write")
    share.add_argument("--split", help="dataset/split whose rates to show (default: the only one)")
    share.add_argument("--codec", help="codec id (default: the only one)")
    share.add_argument("--overwrite", action="store_true", help="replace a ranking of that name")
    for action in (inspect, verify, doctor):
        action.add_argument("--json", action="store_true", help="print one JSON object instead")
    for action in (verify, close, share):
        action.add_argument(
            "--steal_lease", action="store_true", help="take over from a job that is known dead"
        )
    for action in (decode, export):
        action.add_argument("--split", help="dataset/split, where several have that sample")
        action.add_argument("--ranking", help="ranking of N channels (default: the only one)")
        action.add_argument("--codec", help="codec id (default: the only one)")
    return parser


def _add_decode_flags(decode: argparse.ArgumentParser) -> None:
    add = decode.add_argument
    add("--sample", help="sample id; for a store")
    add(
        "--channels", nargs="+", default=["all"], help="all, or N: the N most important; or several"
    )
    add("--output", type=Path, required=True, help="PNG file; a folder for several --channels")
    add("--strip", action="store_true", help="several --channels side by side in one PNG")
    add("--image", type=Path, help="the original picture, to measure PSNR against")
    add("--codec_checkpoint", type=input_file, help="codec of a stream file")
    add("--store", help="store that keeps the codec of a stream file")
