"""Ranks whose store lies on S3: what each asks for, and that they train, stop and go on as ever."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
import torch

from latent_store.console import STORAGE_OPTIONS
from latent_store.storage.location import Location
from tests import s3
from tests.conftest import TinyStore
from tests.training.trainer.test_ranks import (
    ROOT,
    TORCHRUN,
    TWO,
    make_loader,
    numbers,
    records,
    rows_of,
    timeless,
)
from training import train
from training.data.loader import CropLoader, WholeImages
from training.trainer.checkpoints import load_network
from training.trainer.ranks import ALONE, Ranks

THREE = tuple(Ranks(rank=rank, world=3) for rank in range(3))
A_SHARD = 2
"""Rows in a shard of the small store, whose arrays have one object a shard each."""
RUNS = {"batch_size": 6, "chunk_rows": A_SHARD, "preload_rows": 6}
"""An epoch is one load of three runs, a shard each."""
_OBJECT = re.compile(r"tiny\.zarr/cityscapes/(\w+)/.*?(\w+)/c/(\d+)")

FLAGS = """
    --selection dynamic --init scratch --backbone mobilenet_v2 --aspp_width 16 --crop 64
    --distil_steps 2 --fit_images 2 --batch_size 2 --chunk_rows 2 --preload_rows 4 --max_samples 4
    --device cpu --workers 0 --no-tensorboard --log_steps 1 --freeze_batch_norm --dropout 0
    --learning_rate 1e-4
"""
"""Two batches an epoch, of which either of two ranks reads a shard."""
SHORT = ("--max_steps", 2, "--transform_init", "fresh")
"""One epoch."""
LONGER = ("--max_steps", 8, "--val_split", "none")
OF_THE_START = {"channel_rms", "channel_mean", "features"}
"""Arrays of which the first rank reads more than its part, for fresh weights' scales."""


@pytest.fixture(scope="module")
def server(tiny_store: TinyStore) -> Iterator[s3.Server]:
    with pytest.MonkeyPatch.context() as patch, s3.serving(patch) as found:
        Location(found.url).fs.put(f"{tiny_store.url}/", f"{store_on(found)}/", recursive=True)
        yield found


def store_on(server: s3.Server) -> str:
    return f"{server.url}/tiny.zarr"


def shards_of(asked: Sequence[s3.Request], split: str = "train") -> dict[str, set[int]]:
    """The shards whose objects of samples were asked for, by array."""
    found: dict[str, set[int]] = {}
    for _, key in asked:
        if (known := _OBJECT.match(key)) and known[1] == split:
            found.setdefault(known[2], set()).add(int(known[3]))
    return found


# -- what a rank asks for -------------------------------------------------------------------


def test_each_rank_asks_for_its_part_of_an_epoch(server: s3.Server) -> None:
    for epoch in range(3):
        parts = []
        for ranks in THREE:
            loader = make_loader(store_on(server), ranks, **RUNS)
            loader.epoch = epoch
            server.asked.clear()
            own = {row // A_SHARD for batch in rows_of(loader) for row in batch}
            asked = shards_of(server.asked)
            assert asked == dict.fromkeys(("y_hat", "segmentation", "channel_bits"), own)
            parts.append(own)
        assert [len(part) for part in parts] == [1, 1, 1]
        assert set.union(*parts) == {0, 1, 2}


def test_ranks_share_an_object_only_where_a_run_is_shared(server: s3.Server) -> None:
    parts = []
    for ranks in TWO:
        server.asked.clear()
        assert len(rows_of(make_loader(store_on(server), ranks, **RUNS))[0]) == 3
        parts.append(shards_of(server.asked)["y_hat"])
    assert [len(part) for part in parts] == [2, 2]  # of three runs of two rows, three rows each
    assert set.union(*parts) == {0, 1, 2}


def test_each_rank_asks_for_its_part_of_the_validation(server: s3.Server) -> None:
    for ranks in THREE:
        source = make_loader(store_on(server), ALONE).source
        server.asked.clear()
        images = WholeImages(source, share=ranks)
        assert [b["rows_B"].tolist() for b in images] == [[2 * ranks.rank], [2 * ranks.rank + 1]]
        assert shards_of(server.asked)["y_hat"] == {ranks.rank}


# -- whole runs -----------------------------------------------------------------------------


def arguments(store: str, output: Path, *more: object) -> list[str]:
    return ["--store", store, "--output", str(output), *FLAGS.split(), *map(str, more)]


class Group:
    """Two ranks under `torchrun`, as README starts them; the server knows them as rank0 and rank1.

    Where the store lies they are told by the variable alone.

    Args:
        endpoints: Of each rank.
        output: Of the run; beside it lies what each rank said.
        nodes: 1 for both, or 2 for one each: a `torchrun` a node, on this machine.
    """

    def __init__(
        self, endpoints: Sequence[str], store: str, output: Path, *more: object, nodes: int = 1
    ) -> None:
        first, second = (json.dumps({"endpoint_url": endpoint}) for endpoint in endpoints)
        script = f'[ $RANK = 0 ] || export {STORAGE_OPTIONS}="$SECOND"'
        script += f'; AWS_ACCESS_KEY_ID=rank$RANK exec "$@" 2>{output.parent}/rank$RANK'
        program = Path(sys.executable).with_name("train-from-store")
        words = [str(program), *arguments(store, output, *more)]
        env = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
        self.logs = [output.parent / f"rank{rank}" for rank in (0, 1)]
        env |= {STORAGE_OPTIONS: first, "SECOND": second, "OMP_NUM_THREADS": "1"}
        start = TORCHRUN if nodes == 1 else [*TORCHRUN[:3], *two_nodes()]
        command = [*start, "--no-python", "sh", "-c", script, "sh", *words]
        self._nodes = [subprocess.Popen(command, cwd=ROOT, env=env) for _ in range(nodes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
        for node in self._nodes:
            node.wait(100)  # It ends its ranks within 30 s.

    def terminate(self) -> None:
        """Sends SIGTERM to all of them: `torchrun` passes it on."""
        for node in self._nodes:
            node.terminate()

    def wait(self, seconds: float = 300) -> tuple[int, list[list[str]]]:
        """Returns the exit status, and each rank's errors."""
        status = max(abs(node.wait(seconds)) for node in self._nodes)
        said = [log.read_text() for log in self.logs]
        assert not any("Traceback" in one for one in said), said
        mark = "train-from-store: error: "
        lines = [[line for line in one.splitlines() if mark in line] for one in said]
        return status, [[line.partition(mark)[2] for line in own] for own in lines]


def two_nodes() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
    return [*words, "--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1"]


def together(server: s3.Server, output: Path, *more: object, nodes: int = 1) -> None:
    with Group([server.endpoint] * 2, store_on(server), output, *more, nodes=nodes) as group:
        assert group.wait() == (0, [[], []])


def require_close(one: Path, other: Path) -> None:
    mine, theirs = (load_network(path / "last.pt").network.state_dict() for path in (one, other))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-5)


def loaders(server: s3.Server, **changed: int) -> list[CropLoader]:
    """Those of the two ranks of `FLAGS`."""
    sizes = {"batch_size": 2, "chunk_rows": 2, "preload_rows": 4, "max_samples": 4}
    return [make_loader(store_on(server), ranks, **(sizes | changed)) for ranks in TWO]


@pytest.mark.slow
def test_two_ranks_train_from_s3_what_one_process_does(
    server: s3.Server, tiny_store: TinyStore, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments(str(tiny_store.url), one, *SHORT)) == 0
    server.asked_by.clear()
    together(server, two, *SHORT)
    require_close(two, one)
    for kind in ("step", "epoch", "validation"):
        for record, other in zip(records(two, kind), records(one, kind), strict=True):
            assert numbers(record) == pytest.approx(numbers(other), rel=1e-4, abs=1e-3)
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    # Of the epoch either has a shard, and of the four pictures of the validation too.
    asked = [server.asked_by[name] for name in ("rank0", "rank1")]
    own = [{row // A_SHARD for b in rows_of(one) for row in b} for one in loaders(server)]
    assert sorted(map(sorted, own)) == [[0], [1]]
    for rank in (0, 1):
        for name, shards in shards_of(asked[rank]).items():
            more = {0, 1} if rank == 0 and name in OF_THE_START else set()
            assert shards == own[rank] | more, (rank, name)
        assert shards_of(asked[rank], "val")["y_hat"] == {rank}


@pytest.fixture(scope="module")
def whole(server: s3.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    together(server, output, *LONGER)
    return output


@pytest.fixture(scope="module")
def parted(server: s3.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped while a rank waits for an answer of the store in a later epoch."""
    output = tmp_path_factory.mktemp("parted") / "run"
    later, stopped = threading.Event(), threading.Event()
    seen: set[str] = set()

    def arrived(asker: str, request: s3.Request) -> None:
        known = _OBJECT.match(request[1])
        if asker == "rank1" and known and known[2] == "segmentation":
            seen.add(known[3])
            if len(seen) == 2:
                later.set()
                stopped.wait(90)

    with (
        pytest.MonkeyPatch.context() as patch,
        Group([server.endpoint] * 2, store_on(server), output, *LONGER) as group,
    ):
        patch.setattr(server, "arrived", arrived)
        assert later.wait(240)
        group.terminate()
        deadline = time.monotonic() + 60
        while "stopping after this step" not in group.logs[0].read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stopped.set()
        status, errors = group.wait()
    assert status
    (said,), (other,) = errors
    assert said == other
    assert 2 <= int(re.match(r"stopped by SIGTERM after step (\d) of 8; ", said)[1]) < 8
    return output


@pytest.mark.slow
def test_stopped_ranks_go_on_bit_by_bit_on_two_nodes(
    server: s3.Server, whole: Path, parted: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(parted, tmp_path / "run")
    together(server, output, *LONGER, "--resume", nodes=2)
    assert (output / "last.pt").read_bytes() == (whole / "last.pt").read_bytes()
    for kind in ("step", "epoch"):
        mine, theirs = (records(path, kind) for path in (output, whole))
        assert [timeless(r) for r in mine] == [timeless(r) for r in theirs]
        assert mine


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_ranks_began_from_a_distilled_start(
    server: s3.Server, tiny_store: TinyStore, whole: Path, parted: Path, tmp_path: Path
) -> None:
    output, alone = shutil.copytree(parted, tmp_path / "run"), tmp_path / "alone"
    assert train.main(arguments(store_on(server), output, *LONGER, "--resume")) == 0
    require_close(output, whole)
    assert train.main(arguments(str(tiny_store.url), alone, *LONGER)) == 0
    require_close(alone, whole)


@pytest.mark.slow
def test_a_rank_whose_endpoint_does_not_answer_ends_both(server: s3.Server, tmp_path: Path) -> None:
    with socket.socket() as silent:  # Bound, hence nobody else's; nobody listens.
        silent.bind(("127.0.0.1", 0))
        endpoints = [server.endpoint, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        with Group(endpoints, store_on(server), tmp_path / "run", *LONGER) as group:
            status, (first, second) = group.wait(120)
    assert status
    (reason,) = second
    assert re.match(r"s3://bucket/tiny.zarr (cannot be opened|does not answer)", reason)
    require_lost(first)


@pytest.mark.slow
def test_a_rank_whose_endpoint_goes_away_ends_both(server: s3.Server, tmp_path: Path) -> None:
    moto = pytest.importorskip("moto.server")
    other = moto.ThreadedMotoServer(port=0, verbose=False)
    other.start()  # What it holds is the first one's.
    host, port = other.get_host_and_port()
    answer = other._server.app
    gone = threading.Event()

    def app(environ, start):
        if "/train/labels/segmentation/c/" in environ["PATH_INFO"] and not gone.is_set():
            gone.set()
            other.stop()
        return answer(environ, start)

    other._server.app = app
    endpoints = [server.endpoint, f"http://{host}:{port}"]
    with Group(endpoints, store_on(server), tmp_path / "run", *LONGER) as group:
        status, (first, second) = group.wait(240)
    assert gone.is_set()
    assert status
    (reason,) = second
    assert f"{host}:{port}" in reason
    require_lost(first)


def require_lost(errors: list[str]) -> None:
    """Says that a rank ended because of another: by `torchrun`, or with one line."""
    assert all("rank 0 of 2 lost the others" in error for error in errors)
    assert len(errors) <= 1
