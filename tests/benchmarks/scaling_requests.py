"""What an encode asks of an object store, and of its processor, beside the pictures themselves.

Runs `encode-to-store` on small pictures in moto's S3, pictures and store alike, as often as it
takes to tell apart what comes once, with each picture and with each shard. Requests that are under
way together are one round: what a distance costs is rounds times latency.

    python -m tests.benchmarks.scaling_requests ENDPOINT FLAGS...

is one such run, with its elements one after another; it tells the server where its phases end.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE
from latent_store.errors import JobFailedError
from tests.benchmarks import fault_server
from tests.benchmarks.environment import one_thread
from tests.benchmarks.fault_server import BUCKET, FREE, GET_LIKE, PUT_LIKE, ROUNDS, FaultyStore

BEFORE, WORK, AFTER = "before", "work", "after"
"""What the launcher does first, what workers do, and how the launcher closes the store."""
CPU = "CPU-s"
WHAT = (PUT_LIKE, GET_LIKE, FREE, ROUNDS, CPU)
RUNS = ((16, 8), (144, 8), (144, 24))
"""Pictures and rows a shard: three runs tell three unknowns. Sixteen files are read at once. With
many pictures the clock's noise is little of what each takes, and there may be millions."""
ROUND_SECONDS = 0.02
"""A request takes at least: or of requests that are sent together one would end before the next."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How much of something a phase takes."""

    once: float
    a_picture: float
    a_shard: float

    def of(self, pictures: float, shards: float, times: float = 1) -> float:
        """Returns how much it is of a run; `times`: how often what comes once does."""
        return times * self.once + pictures * self.a_picture + shards * self.a_shard


Table = dict[str, dict[str, Asked]]
"""Phase -> what -> how much."""


def measure_requests() -> Table:
    """Runs the encodes.

    Raises:
        JobFailedError: One failed.
    """
    from tests.pipelines.tiny_jobs import make_inputs

    with fault_server.serving() as store, tempfile.TemporaryDirectory() as folder:
        # Of a run's own pictures: every picture of a split is listed, however few are encoded.
        inputs = {pictures: Path(folder) / str(pictures) for pictures, _ in RUNS}
        for pictures, where in inputs.items():
            make_inputs(where, DEFAULT_ARCHITECTURE, pictures)
        found = [_one_run(store, inputs[pictures], rows) for pictures, rows in RUNS]
    matrix = np.array([[1, p, -(-p // rows)] for p, rows in RUNS], float)
    return {
        phase: {
            what: Asked(**_parts(matrix, [run[phase].get(what, 0) for run in found]))
            for what in WHAT
        }
        for phase in (BEFORE, WORK, AFTER)
    }


def _parts(matrix: np.ndarray, values: Sequence[float]) -> dict[str, float]:
    # Noise of the processor's times may lie below 0.
    solved = np.maximum(np.linalg.solve(matrix, np.array(values, float)), 0)
    return dict(zip(("once", "a_picture", "a_shard"), map(float, solved), strict=True))


def _one_run(store: FaultyStore, inputs: Path, rows: int) -> dict[str, dict[str, float]]:
    store.reset(0)
    store.upload(inputs, "inputs")
    store.latency = ROUND_SECONDS
    base = f"s3://{BUCKET}"
    words = ["--store", f"{base}/s.zarr", "--data_root", f"{base}/inputs/data", "--demo_codec"]
    words += ["--dataset", "cityscapes", "--split", "train", "--threads", "1"]
    words += ["--samples_per_shard", str(rows)]
    call = [sys.executable, "-m", __name__, store.endpoint, *words]
    environment = {**one_thread(), **store.environment}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise JobFailedError(f"an encode failed: {done.stderr[-500:]}")
    marks = {
        name: {**counts, CPU: float(query.partition("=")[2])}
        for name, (query, counts) in store.phases.items()
    }
    pairs = itertools.pairwise(("start", BEFORE, WORK, AFTER))
    return {
        end: {what: marks[end].get(what, 0) - marks[start].get(what, 0) for what in WHAT}
        for start, end in pairs
    }


def _work(endpoint: str, words: Sequence[str]) -> int:
    """Runs one encode, and marks its phases."""
    from pipelines import encode
    from pipelines.jobs import component_job
    from tests.pipelines.tiny_jobs import in_turn

    def mark(phase: str) -> None:
        urllib.request.urlopen(f"{endpoint}/phase-{phase}?cpu={time.process_time()}").close()

    def marked(name: str, shards: Sequence[int], work: Callable[[int], Any], *_: Any) -> None:
        mark(BEFORE)
        in_turn(name, shards, work)
        mark(WORK)

    component_job.run_over_shards = marked
    mark("start")
    status = encode.main(list(words))
    mark(AFTER)
    return status


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(_work(sys.argv[1], sys.argv[2:]))
