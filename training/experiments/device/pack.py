"""`python -m training.experiments.device.pack`: what is carried to the machine, in parts.

    python -m training.experiments.device.pack --data_root city256 --output parts \\
        --files codecs/*.pth.tar mobilenet_v2_imagenet.pth wheels/*.whl

Pictures in Cityscapes' layout become JPEG under their own names, which readers tell by content;
labels stay PNG. Every part is a tar file of at most `--part_mb`; unpacked over each other they are
`data/` and `files/`. JPEG changes pictures: a store that is to be compared with one from there is
encoded from the unpacked parts too.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from latent_store.console import Number, make_parser, progress, run_command
from latent_store.errors import DatasetError

PROG = "pack"
_TAR_BLOCK = 512
"""Bytes; a tar file has a block of its own for every file, and fills up the last."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = make_flags().parse_args(argv)
    return run_command(PROG, lambda: _run(args))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(PROG, __doc__ or "")
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="pictures and labels in Cityscapes' layout")
    add("--files", type=Path, nargs="*", default=[], help="codecs, weights, wheels")
    add("--output", type=Path, required=True, help="folder of the parts")
    add("--part_mb", type=Number(float, 1), default=45.0, help="size of a part, in 10**6 bytes")
    add("--quality", type=Number(int, 1, 100), default=95, help="of JPEG")
    add(
        "--max_samples",
        type=Number(int, 1),
        help="of each split, evenly spaced",
    )
    return parser


def members(args: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """Yields what is carried: name in the parts, and content.

    Raises:
        DatasetError: There are no pictures.
    """
    for path in args.files:
        yield f"files/{path.name}", path.read_bytes()
    splits = sorted(path for path in args.data_root.glob("leftImg8bit/*") if path.is_dir())
    pictures = [p for split in splits for p in _spaced(sorted(split.glob("*/*")), args.max_samples)]
    if not pictures:
        raise DatasetError(f"no pictures in {args.data_root.name}/leftImg8bit/SPLIT/CITY")
    for picture in progress(pictures, desc="pictures", unit="picture"):
        name = picture.relative_to(args.data_root)
        content = io.BytesIO()
        with Image.open(picture) as image:
            image.convert("RGB").save(content, "JPEG", quality=args.quality, subsampling=0)
        yield f"data/{name}", content.getvalue()
        label = str(name).replace("leftImg8bit", "gtFine").removesuffix(".png")
        label = f"{label}_labelIds.png"
        yield f"data/{label}", (args.data_root / label).read_bytes()


def _spaced(paths: list[Path], most: int | None) -> list[Path]:
    """Returns at most `most` paths, evenly spaced: neighbours are of one city, or of one drive."""
    if most is None or most >= len(paths):
        return paths
    return [paths[number * len(paths) // most] for number in range(most)]


def write_parts(found: Iterator[tuple[str, bytes]], folder: Path, most: int) -> list[Path]:
    """Writes tar files of at most `most` bytes, in the order of their members."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    size = most
    for name, content in found:
        cost = _TAR_BLOCK * (2 + len(content) // _TAR_BLOCK)
        if size + cost > most:
            paths.append(folder / f"part-{len(paths)}.tar")
            size = tarfile.RECORDSIZE  # what the end of the file may be filled up with
            paths[-1].unlink(missing_ok=True)
        with tarfile.open(paths[-1], "a") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        size += cost
    return paths


def _run(args: argparse.Namespace) -> int:
    for path in write_parts(members(args), args.output, int(args.part_mb * 1e6)):
        sys.stdout.write(f"{path} {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
