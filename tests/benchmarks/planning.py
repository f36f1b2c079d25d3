"""What planning takes: rows are listed, planned, written, planned again, and read by shard.

    python -m tests.benchmarks.planning --rows 100000 10000000

The listing is made, one sample after another; all else is what `encode-to-store` does before its
first picture, in a process of its own: it loads torch, Beam and the demo codec, lists, plans, and
writes. Seconds are the processor's, memory is the most that a process had.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from latent_store.components.creation import create_store
from latent_store.console import Number, make_parser, run_command
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import plan_key, read_plan, to_json
from latent_store.format.samples import Sample
from latent_store.storage.location import Location
from pipelines.datasets.base import DatasetReader
from tests.benchmarks.commands import run_python
from tests.benchmarks.table import markdown
from tests.latent_store.memory import peak_bytes

DATASET, SPLIT = "made", "train"
COUNT = "count"
"""File in the data root that says how many samples are listed."""
HEADER = ("rows", "what", "CPU (s)", "peak (MiB)", "bytes")


class Listing(DatasetReader):
    """Lists pictures that are not there."""

    dataset_id = DATASET

    def manifest(self, split: str) -> Iterator[Sample]:
        """Yields as many as the file says."""
        for n in range(int(self.data_root.read(COUNT))):
            yield Sample(
                sample_id=f"s{n:08d}",
                image_uri=f"{split}/{n // 1000:05d}/s{n:08d}.jpg",
                label_uri=f"masks/{n // 1000:05d}/s{n:08d}.png",
                height=512,
                width=768,
                image_bytes=100_000 + n * 7919 % 99_991,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.planning", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.planning", __doc__ or "")
    add = parser.add_argument
    add("--rows", type=Number(int, 1), nargs="+", default=[100_000], help="samples of a split")
    text = "also read plans of up to so many samples as stores of version 1 have them"
    add("--text_up_to", type=Number(int), default=100_000, help=text)
    return parser


def _run(flags: argparse.Namespace) -> int:
    table = []
    for rows in flags.rows:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / COUNT).write_text(str(rows))
            steps: dict[str, Callable[[str], None]] = {
                "nothing: what is loaded": load,
                "listed, planned, written": plan,
                "the same command again": plan,
                "one shard": read_shard,
                "all of it, checked": read_whole,
            }
            if rows <= flags.text_up_to:
                steps["one shard of one text (version 1)"] = read_text
            for name, step in steps.items():
                code = f"from tests.benchmarks import planning as p; p.{step.__name__}({folder!r})"
                found = json.loads(run_python("-c", code).text.splitlines()[-1])
                mib, total = found[1] >> 20, f"{found[2]:,}"
                table.append((f"{rows:,}", name, f"{found[0]:.2f}", str(mib), total))
    print(markdown(HEADER, table))
    return 0


def load(folder: str) -> None:
    """Loads what the launcher does, the codec too."""
    from latent_store.codec import load_codec
    from pipelines.jobs import encode_request

    assert encode_request
    _tell(lambda: load_codec(demo=True))


def plan(folder: str) -> None:
    """Plans as `encode-to-store` does, and writes the plan."""
    from pipelines.encode import make_flags
    from pipelines.jobs.encode_request import EncodeRequest
    from pipelines.jobs.job_flags import parse_flags

    words = f"--dataset {__name__}:Listing --split {SPLIT} --demo_codec --max_failures 9".split()
    words += ["--data_root", folder, "--store", str(_store(folder).root)]
    flags, _ = parse_flags(make_flags(), words)

    def planned() -> None:
        request = EncodeRequest(flags)
        create_store(request.location)
        request.write_plan()

    _tell(planned, _store(folder))


def read_shard(folder: str) -> None:
    """Reads what a worker needs for a shard in the middle."""
    _tell(lambda: _in_the_middle(_plan(folder)))


def read_whole(folder: str) -> None:
    """Reads and checks all, as who adds to a store does."""
    _tell(lambda: _plan(folder).require_whole())


def read_text(folder: str) -> None:
    """Reads the same from a plan of version 1, whose text is written first, by another process."""
    code = f"from tests.benchmarks import planning as p; p.write_text({folder!r})"
    run_python("-c", code)
    _tell(lambda: _in_the_middle(_plan(f"{folder}/text")), _store(f"{folder}/text"))


def write_text(folder: str) -> None:
    """Writes a plan as stores of version 1 have it."""
    text = to_json(_plan(folder))
    _store(f"{folder}/text").write(plan_key(DATASET, SPLIT), text)


def _store(folder: str) -> Location:
    return Location(f"{folder}/s.zarr")


def _plan(folder: str) -> ShardPlan:
    return read_plan(_store(folder), DATASET, SPLIT)


def _in_the_middle(found: ShardPlan) -> None:
    found.in_shard(found.num_shards // 2)


def _tell(step: Callable[[], object], store: Location | None = None) -> None:
    """Prints the seconds that a step takes, the most memory, and the bytes of a store's plan."""
    start = time.process_time()
    step()
    seconds = time.process_time() - start
    sizes = {} if store is None else store.sizes(".latent_store")
    total = sum(size for key, size in sizes.items() if "/plan" in key)
    print(json.dumps([seconds, peak_bytes(), total]))


if __name__ == "__main__":
    raise SystemExit(main())
