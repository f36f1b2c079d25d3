"""Workers that are no processes of the launcher: what is theirs they find themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from pipelines import encode
from pipelines.jobs import beam_jobs
from pipelines.jobs.beam_options import read_options
from tests.pipelines.tiny_jobs import encode_args


@pytest.fixture(scope="module")
def flags() -> Iterator[tuple[str, ...]]:
    """A worker of Dask, with room for two shards at a time."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", protocol="tcp"
    ) as cluster:
        yield ("--runner", "DaskRunner", "--dask_client_address", cluster.scheduler_address)


def test_a_worker_shares_its_own_cores_among_its_shards(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = read_options("encode-to-store", flags)
    assert beam_jobs.worker_cores(options) is None
    monkeypatch.setattr(beam_jobs, "usable_cores", lambda: 16)
    with distributed.Client(flags[-1]) as client:
        assert client.submit(beam_jobs.own_cores, pure=False).result() == 8
    assert beam_jobs.own_cores() == 1  # Of runners that do not say how many workers share them.


def test_a_device_that_a_worker_lacks_is_told_by_the_worker(
    inputs: Path, tmp_path: Path, fails: Any, flags: tuple[str, ...]
) -> None:
    device = ("--device", "cuda:99")
    here = fails(encode.main, encode_args(inputs, tmp_path / "here.zarr", *device))
    assert "CUDA device" in here
    assert not (tmp_path / "here.zarr").exists()
    url = tmp_path / "s.zarr"
    told = fails(encode.main, encode_args(inputs, url, *flags, *device), status=1)
    assert "3 of 3 shards do not count (shard 0: its last attempt failed: the worker on " in told
    assert "--device cuda:99: there " in told
    # What it has, in the same store, after all.
    assert encode.main(encode_args(inputs, url, *flags, "--device", "auto")) == 0
    named = fails(encode.main, encode_args(inputs, url, *flags, "--device", "abacus"))
    assert "--device must be auto, cpu or cuda[:N], got 'abacus'" in named
