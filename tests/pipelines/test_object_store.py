"""Jobs on an object store, over the wire: pictures, codec and store lie there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latent_store import cli
from latent_store.storage.location import Location
from pipelines import encode, frequency, reorder
from tests import gcs, s3
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import SPLIT, encode_args, encoding, ranking, reordering, run


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """An empty bucket's address."""
    if request.param == "s3":
        with s3.serving(monkeypatch) as server:
            yield server.url
    else:
        with gcs.serving(monkeypatch, tmp_path) as google:
            yield google.url


def test_a_store_made_over_the_wire_is_the_same(
    bucket: str, inputs: Path, tmp_path: Path, serial: None
) -> None:
    calm, there = tmp_path / "calm.zarr", f"{bucket}/s.zarr"
    encoding(inputs)(calm)
    ranking()(calm)
    reordering()(calm)
    Location(bucket).fs.put(f"{inputs}/", f"{bucket}/inputs/", recursive=True)
    words = [w.replace(str(inputs), f"{bucket}/inputs") for w in encode_args(inputs, calm)]
    words[words.index(str(calm))] = there
    run(encode.main, *words)
    flags = ("--method", "random", "--ranking", "r", "--keep", "8")
    run(frequency.main, "--store", there, *SPLIT, *flags)
    run(reorder.main, "--store", there, *SPLIT, "--ranking", "r")
    run(cli.main, "verify", there)
    location = Location(there)
    keys = [key for key in location.sizes("") if "/leases/" not in key]
    for key in keys:
        (tmp_path / "copy" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / key).write_bytes(location.read(key))
    assert contents(tmp_path / "copy") == contents(calm)


class Busy(gcs.Server):
    """A server that takes nothing of the second shard, and says so in words of its client."""

    busy = True

    def _put(self, key: str, data: bytes, query: dict[str, str]) -> gcs.Answer:
        if self.busy and "/c/1" in key:
            return 409, "The bucket is busy."
        return super()._put(key, data, query)


def test_a_shard_that_google_does_not_take_is_told_and_the_others_are_made(
    inputs: Path,
    tmp_path: Path,
    serial: None,
    fails: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Busy()
    with gcs.serving(monkeypatch, tmp_path, server):
        words = encode_args(inputs, Path("x"))
        words[words.index("--store") + 1] = f"{server.url}/s.zarr"
        line = fails(encode.main, words, 1)
        assert "1 of 3 shards do not count (shard 1: its last attempt failed: The bucket is" in line
        server.busy = False
        run(encode.main, *words)
