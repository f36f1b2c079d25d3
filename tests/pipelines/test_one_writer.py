"""One writer at a time: whoever writes holds the lease of it, or says who does, in one line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.catalogue.rankings import lease_name
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from pipelines import encode, frequency, reorder
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import (
    NAME,
    SPLIT,
    encode_args,
    encoding,
    run,
)

Fails = Callable[..., str]
pytestmark = pytest.mark.usefixtures("serial")
HOLDER = f"is being written by process {os.getpid()} on "


def test_closing_leaves_what_another_job_writes_and_closes_the_rest(
    url: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(url)
    with Lease(Location(url), NAME, "labels"):
        assert cli.main(["finalize", str(url)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{NAME}/labels {HOLDER}")
    assert [line.split(": ")[1] for line in lines[1:]] == ["complete, 2 shards"] * 2
    assert contents(url) == before


def test_what_a_killed_job_left_is_done_by_nobody_but_the_holder(inputs: Path, url: Path) -> None:
    labels = url / NAME / "labels/zarr.json"
    record = json.loads(labels.read_bytes())
    del record["consolidated_metadata"]
    labels.write_text(json.dumps(record))
    with Lease(Location(url), NAME, "labels"):
        encoding(inputs, "--max_samples", "2")(url)
        assert json.loads(labels.read_bytes()) == record
    encoding(inputs, "--max_samples", "2")(url)
    assert "consolidated_metadata" in json.loads(labels.read_bytes())


def test_repair_removes_nothing_while_a_job_writes(url: Path, fails: Fails) -> None:
    (url / NAME / "labels/segmentation/c/0/0/0").unlink()
    before = contents(url)
    with Lease(Location(url), NAME, "labels"):
        line = fails(cli.main, ["verify", str(url), "--repair"])
    assert f"{NAME}/labels {HOLDER}" in line
    assert contents(url) == before
    assert cli.main(["verify", str(url), "--repair"]) == 1
    assert contents(url) != before


def test_ranking_and_sharing_wait_for_nobody(inputs: Path, url: Path, fails: Fails) -> None:
    location = Location(url)
    codec_id = latent_store.open(url).codec().codec_id
    args = ["--store", str(url), *SPLIT, "--method", "random", "--overwrite", "--ranking"]
    run(frequency.main, *args, "another")
    with Lease(location, *lease_name(codec_id, "r")):
        line = fails(frequency.main, [*args, "r"])
        assert f"codecs/{codec_id}/rankings/r {HOLDER}" in line
        shared = ["share", str(url), "--rankings", "r", "another", "--name", "r", "--overwrite"]
        assert f"codecs/{codec_id}/rankings/r {HOLDER}" in fails(cli.main, shared)
        run(frequency.main, *args, "another")
    run(frequency.main, *args, "r")


def test_reordering_and_encoding_wait_for_nobody(inputs: Path, url: Path, fails: Fails) -> None:
    location = Location(url)
    keys = latent_store.open(url)[NAME].components()
    (ranked,) = (key for key in keys if key.startswith("ranked/"))
    with Lease(location, NAME, ranked):
        line = fails(reorder.main, ["--store", str(url), *SPLIT, "--ranking", "r", "--overwrite"])
        assert f"{NAME}/{ranked} {HOLDER}" in line
    (latents,) = (key for key in keys if key.startswith("latents/"))
    with Lease(location, NAME, latents):
        assert f"{NAME}/{latents} {HOLDER}" in fails(encode.main, encode_args(inputs, url))
    assert latent_store.open(url)[NAME].ranked("r").rows.tolist() == [0, 1]


def test_of_several_who_write_one_ranking_the_last_one_stays_whole(url: Path) -> None:
    codec_id = latent_store.open(url).codec().codec_id
    ended: dict[int, int] = {}
    start = threading.Barrier(4)

    def rank(seed: int) -> None:
        start.wait()
        flags = ("--method", "random", "--ranking", "r", "--keep", "8", "--overwrite")
        args = ("--store", str(url), *SPLIT, *flags, "--seed", str(seed))
        ended[seed] = frequency.main(list(args))

    for first in range(0, 12, 4):
        threads = [threading.Thread(target=rank, args=(first + n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seeds = [seed for seed in range(first, first + 4) if ended[seed] == 0]
        assert seeds
        assert {ended[seed] for seed in range(first, first + 4)} <= {0, 2}
        assert latent_store.open(url).ranking(codec_id, "r").seed in seeds
