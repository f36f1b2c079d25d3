"""`python -m training.experiments.device.on_gpu`: a grid on one GPU, from pictures to records.

    python -m training.experiments.device.on_gpu --carried carried --work work --output out \\
        --grid city256 --minutes 9.5 --jobs 12

`--carried` holds the unpacked parts (`pack`). The same call goes on where another one stood, with
what is left in `--work`:

1. teachers are trained while the codecs encode, all on the GPU; then they give their features,
2. streams are checked: scale indexes under every setting, the GPU's among them (`selfcheck`), and
   what the GPU encoded, decoded on the CPU,
3. the grid's networks are trained and measured, many at a time, until the time is over.

`--output` gets few files: records.tar.gz after every network, logs.tar.gz (with the report) and
teachers, in pieces of `--piece_mb`, which `cat` joins.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import latent_store
from latent_store.codec import codec_from_store, decode_y
from latent_store.components.features import STEM
from latent_store.console import MOST_THREADS, Number, make_parser, run_command
from latent_store.errors import JobFailedError
from latent_store.storage.local_files import write_text
from latent_store.tools.decode import decode_gaussians
from training.experiments.grid import Grid
from training.experiments.grid_file import load_grid

PROG = "on_gpu"
_GRACE_SECONDS = 40
"""What is under way at the end saves in this time, and what is there is delivered."""
_SPLITS = ("train", "val")


class Machine:
    """One call: commands, the time that is left, and what comes back.

    Attributes:
        logs: What commands say, and the report; packed into one file of the output.

    Args:
        args: The command's flags.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._end = time.monotonic() + 60 * args.minutes - _GRACE_SECONDS
        self.args, self.output, self.work = args, args.output, args.work
        self.output.mkdir(parents=True, exist_ok=True)
        self.logs = self.work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._started: list[subprocess.Popen[bytes]] = []
        self.store = self.work / "store.zarr"
        self.records = self.work / "records"
        self.checked = self.work / f"checked-{'-'.join(args.codecs or ['all'])}.txt"

    @property
    def left(self) -> float:
        """Seconds until commands must end."""
        return self._end - time.monotonic()

    def teacher(self, seed: int) -> Path:
        """Returns the checkpoint of a teacher."""
        return self.work / f"teacher{seed}/last.pt"

    def start(self, log: str, module: str, *words: object) -> subprocess.Popen[bytes]:
        """Starts a command, a module of this package; the log of that name gets what it says."""
        with (self.logs / f"{log}.log").open("ab") as file:
            call = [sys.executable, "-m", module, *map(str, words)]
            print(f"{self.left:5.0f} s left: {module} {' '.join(map(str, words))}", flush=True)
            self._started.append(subprocess.Popen(call, stdout=file, stderr=file))
        return self._started[-1]

    def finish(self, *commands: subprocess.Popen[bytes]) -> None:
        """Waits for commands, until the time is over.

        Raises:
            JobFailedError: One failed, or the time is over.
        """
        try:
            for command in commands:
                command.wait(max(0, self.left))
        except subprocess.TimeoutExpired as error:
            raise JobFailedError(
                "the time was over before the store was ready; the same call goes on"
            ) from error
        for command in commands:
            if command.returncode:
                words: Any = command.args
                raise JobFailedError(
                    f"{' '.join(words)} ended with {command.returncode}; see logs.tar.gz in "
                    f"{self.output}"
                )

    def end(self) -> None:
        """Tells every command under way to save and end, and waits for as long as that may take."""
        active = [command for command in self._started if command.poll() is None]
        for command in active:
            command.terminate()
        latest = time.monotonic() + _GRACE_SECONDS
        for command in active:
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(max(0, latest - time.monotonic()))

    def deliver(self, path: Path) -> None:
        """Copies a file to the output, in pieces where it is large."""
        content, most = path.read_bytes(), int(self.args.piece_mb * 1e6)
        for number, start in enumerate(range(0, len(content), most)):
            piece = f".{number}" if len(content) > most else ""
            name = f"{path.parent.name}-{path.name}{piece}"
            (self.output / name).write_bytes(content[start : start + most])

    def deliver_records(self, until: threading.Event) -> None:
        """Packs records and logs whenever there is another record, until it is told to stop."""
        packed: set[Path] = set()
        while True:
            over = until.wait(1)
            found = set(self.records.rglob("*.json"))
            if found != packed:
                self._pack("records.tar.gz", self.records, found)
                packed = found
                self._pack("logs.tar.gz", self.logs, self.logs.rglob("*"))
            if over:
                self._pack("logs.tar.gz", self.logs, self.logs.rglob("*"))
                return

    def _pack(self, name: str, folder: Path, paths: Iterable[Path]) -> None:
        new = self.output / f"{name}.part"
        with tarfile.open(new, "w:gz", compresslevel=4) as tar:
            for path in sorted(paths):
                tar.add(path, path.relative_to(folder), recursive=False)
        new.replace(self.output / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = make_flags().parse_args(argv)
    return run_command(PROG, lambda: _run(args))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(PROG, __doc__ or "")
    add = parser.add_argument
    add("--carried", type=Path, required=True, help="folder of the unpacked parts")
    add("--work", type=Path, required=True, help="folder of the store and of networks under way")
    add("--output", type=Path, required=True, help="folder of what comes back")
    add("--grid", default="city256", help="its codecs' files are among what is carried")
    add("--only", nargs="+", metavar="METHOD", help="only these methods and what they need")
    add("--codecs", nargs="+", metavar="Q", help="only these codecs, by the grid's names")
    add("--minutes", type=Number(float), default=9.5, help="end so long after the start")
    count = Number(int, 1, MOST_THREADS)
    add("--jobs", type=count, default=12, help="networks at a time")
    add("--encoders", type=count, default=4, help="processes that encode one split of one codec")
    add("--backbone", default="mobilenet_v2", help="of the teacher")
    add("--pretrained", default="mobilenet_v2_imagenet.pth", help="its carried weights, or none")
    add("--teacher_steps", type=Number(int, 1), default=2000, help="that the teacher is trained")
    add("--max_steps", type=Number(int, 1), help="of every network, to try it all out")
    add("--check_samples", type=Number(int, 1), default=8, help="pictures of the selfcheck")
    add("--piece_mb", type=Number(float, 1), default=15.0, help="largest file that comes back")
    add("--device", default="cuda", help="cuda, or cpu to try it all out")
    return parser


def _run(args: argparse.Namespace) -> int:
    machine, grid = Machine(args), load_grid(args.grid)
    stop = threading.Event()
    packer = threading.Thread(target=machine.deliver_records, args=(stop,))
    packer.start()
    try:
        if not machine.checked.exists():
            _make_store(machine, grid)
            _check_streams(machine, grid)
        _train_grid(machine, grid)
    finally:
        machine.end()
        stop.set()
        packer.join()
    sys.stdout.write("".join(f"{p.name} {p.stat().st_size}\n" for p in machine.output.iterdir()))
    return 0


def _make_store(machine: Machine, grid: Grid) -> None:
    """Trains teachers and encodes every codec at the same time, then adds the features."""
    args, seeds = machine.args, teacher_seeds(grid)
    first, *others = (_codec_file(args.carried, codec_id) for codec_id in _codec_ids(args, grid))
    trained = [_train_teacher(machine, grid, seed) for seed in sorted(set(seeds.values()))]
    # The first codec's job lays the plan and the labels, which the others find.
    machine.finish(*_encode(machine, "--codec_checkpoint", first))
    machine.finish(*(c for file in others for c in _encode(machine, "--codec_checkpoint", file)))
    machine.finish(*trained)
    # Features are for training alone, each of the networks that imitate them.
    for entry, seed in sorted(
        {
            (str(run.method.flags.get("entry", STEM)), seeds[run.seed])
            for run in grid.runs(args.only, args.codecs)
        }
    ):
        words = ("--teacher_checkpoint", machine.teacher(seed), "--entry", entry)
        machine.finish(*_encode(machine, *words, splits=["train"]))
    for seed in set(seeds.values()):
        machine.deliver(machine.teacher(seed))


def teacher_seeds(grid: Grid) -> dict[int, int]:
    """Returns the seed of each network's teacher, by the network's."""
    return {run.seed: run.seed if grid.teacher_per_seed else 0 for run in grid.declared}


def _train_teacher(machine: Machine, grid: Grid, seed: int) -> subprocess.Popen[bytes]:
    args = machine.args
    words = [
        *_data(machine, "train"), "--output", machine.teacher(seed).parent, "--resume",
        "--backbone", args.backbone, "--pretrained", _weights(args), "--seed", seed,
        "--hold_out", *grid.hold_out, "--crop", 0, "--batch_size", 8, "--device", args.device,
        "--max_steps", args.teacher_steps, "--validate_epochs", 2, "--no-tensorboard",
    ]  # fmt: skip
    return machine.start(f"teacher{seed}", "pipelines.train_teacher", *words)


def _encode(
    machine: Machine, *what: object, splits: Sequence[str] = _SPLITS
) -> list[subprocess.Popen[bytes]]:
    args = machine.args
    parallel = ["--direct_running_mode", "multi_processing", "--direct_num_workers", args.encoders]
    words = ["--store", machine.store, *what, "--device", args.device, "--psnr", "sample"]
    words += ["--threads", 1, *(parallel if args.encoders > 1 else [])]
    return [
        machine.start("encode", "pipelines.encode", *_data(machine, split), *words)
        for split in splits
    ]


def selfchecks(machine: Machine, grid: Grid) -> list[list[object]]:
    """Returns the words of one check for each codec of this call."""
    args = machine.args
    words = ["selfcheck", machine.store, "--max_samples", args.check_samples]
    words += ["--device", args.device]
    return [[*words, "--codec", codec_id] for codec_id in _codec_ids(args, grid)]


def _check_streams(machine: Machine, grid: Grid) -> None:
    """Checks the GPU's scale indexes against the CPU's, and decodes on the CPU what it encoded.

    Raises:
        JobFailedError: A stream does not decode to its latents.
    """
    number, device = machine.args.check_samples, machine.args.device
    for check in selfchecks(machine, grid):
        machine.finish(machine.start("check", "latent_store.cli", *check))
    store, checked = latent_store.open(str(machine.store)), 0
    for codec_id, split in itertools.product(_codec_ids(machine.args, grid), _SPLITS):
        codec = codec_from_store(store, codec_id)
        latents = store[f"cityscapes/{split}"].latents(codec_id)
        for row in latents.rows[:number].tolist():
            gaussians = decode_gaussians(codec, latents, row)
            decoded_CHW = decode_y(codec.tables, latents.y_string(row), gaussians.indexes_CHW)
            if not np.array_equal(gaussians.y_hat(decoded_CHW), latents.read([row])[0]):
                raise JobFailedError(
                    f"row {row} of {split} by {codec_id}, encoded on {device}, decodes to other "
                    "latents on the CPU: nothing of this store can be trusted"
                )
            checked += 1
    text = f"{checked} pictures encoded on {device} decode on the CPU to their latents\n"
    write_text(machine.logs / "round-trip.txt", text)
    write_text(machine.checked, text)


def _train_grid(machine: Machine, grid: Grid) -> None:
    args = machine.args
    words: list[object] = ["--store", machine.store, "--grid", args.grid, "--jobs", args.jobs]
    words += ["--work", machine.work / "grid", "--records", machine.records]
    words += ["--output", machine.logs / "report", "--device", args.device]
    words += ["--minutes", max(0.0, machine.left / 60)]
    for name in ("only", "codecs", "max_steps"):
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        words += [] if value is None else [f"--{name}", *values]
    if status := machine.start("grid", "training.experiments.rate_miou", *words).wait():
        raise JobFailedError(
            f"the grid ended with {status}; see logs.tar.gz in {machine.output}; the same call "
            "goes on"
        )


def _data(machine: Machine, split: str) -> list[object]:
    data = machine.args.carried / "data"
    return ["--dataset", "cityscapes", "--data_root", data, "--split", split]


def _codec_ids(args: argparse.Namespace, grid: Grid) -> list[str]:
    return [grid.codecs[name] for name in args.codecs or grid.codecs]


def _weights(args: argparse.Namespace) -> Path | str:
    """Returns the carried weights that the teacher starts from, or `none` where that was asked for.

    Raises:
        JobFailedError: They were not carried.
    """
    if args.pretrained == "none":
        return "none"
    path: Path = args.carried / "files" / args.pretrained
    if not path.is_file():
        raise JobFailedError(
            f"no file {path}: carry the teacher's weights, or start without by --pretrained none"
        )
    return path


def _codec_file(carried: Path, codec_id: str) -> Path:
    """Returns the carried checkpoint of a codec, whose name has the id's digits.

    Raises:
        JobFailedError: It was not carried.
    """
    digits = codec_id.rpartition("-")[2]
    found = sorted((carried / "files").glob(f"*{digits}*"))
    if not found:
        raise JobFailedError(
            f"no file with {digits} in {carried / 'files'}: carry the checkpoint of {codec_id}, or "
            "leave it out by --codecs"
        )
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
