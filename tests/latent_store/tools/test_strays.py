"""Strays are named and ignored; what cannot be read is told, and the rest is looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.storage.location import CONTROL, Location
from latent_store.tools.strays import find_strays
from latent_store.tools.verify import verify
from tests.conftest import TinyStore

TRAIN = "cityscapes/train"
CONTROLS = f"{CONTROL}/{TRAIN}"
STRAYS = [
    ".DS_Store",
    f"{CONTROL}/counts/codec/ranking/network.pt",
    f"{CONTROL}/teachers/.DS_Store",
    f"{CONTROL}/teachers/teacher.pt.AbC123",
    f"{CONTROLS}/.plan.json.0123abcd",
    f"{CONTROLS}/receipts/.nfs000000000001",
    f"{CONTROLS}/receipts/labels/._000000.json",
    f"{CONTROLS}/receipts/labels/.000001.json.XyZ123",
    f"{CONTROLS}/receipts/teacher/._Thumbs/000000.json",
    "cityscapes/.DS_Store",
    "codecs/Thumbs.db",
]
OURS = f"{TRAIN}/labels/segmentation/c/0/0/.0.0123abcd"
"""What a killed process had not finished in a component goes when the component is closed."""
FOLDERS = [f"{TRAIN}/latents/empty/", f"{TRAIN}/ranked/a/b/"]


@pytest.fixture
def littered(copied_store: TinyStore) -> Path:
    """A store with strays of every kind."""
    for key in (*STRAYS, OURS):
        path = copied_store.url / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no part of it")
    for folder in (*FOLDERS, "cityscapes/@eaDir", "codecs/empty", "stray/deep/labels"):
        (copied_store.url / folder).mkdir(parents=True)
    return copied_store.url


def test_strays_are_named_and_ignored(littered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sorted([*STRAYS, OURS, *FOLDERS])
    assert find_strays(Location(littered)) == found
    assert list(verify(Location(littered))) == []
    for action in ("inspect", "verify", "finalize"):
        capsys.readouterr()
        assert cli.main([action, str(littered)]) == 0
        said = capsys.readouterr()
        assert f"no part of the store, and ignored: {found[0]}" in said.out
        assert f", and {len(found) - 3 - (action == 'finalize')} more" in said.out
        assert said.err == ""
    assert find_strays(Location(littered)) == sorted([*STRAYS, *FOLDERS])
    store = latent_store.open(littered)
    assert store.splits() == [TRAIN, "cityscapes/val"]
    assert store[TRAIN].latents().rows.size


def test_a_whole_store_has_none(tiny_store: TinyStore) -> None:
    assert find_strays(Location(tiny_store.url)) == []


def test_what_cannot_be_read_is_told_and_the_rest_is_looked_at(
    copied_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    url = copied_store.url
    codec_id = latent_store.open(url).codec().codec_id
    looped = [
        f"{TRAIN}/labels/segmentation/c/1/0/0",
        f"{CONTROLS}/receipts/labels/000002.json",
        f"{CONTROL}/codecs/{codec_id}.pth.tar",
        f"codecs/{codec_id}/rankings/variance/order/zarr.json",
        f"{CONTROL}/cityscapes/val/plan.json",
    ]
    for key in looped:
        (url / key).unlink()
        (url / key).symlink_to(Path(key).name)  # A link to itself: the system refuses to read it.
    (url / TRAIN / "latents" / codec_id / "hyper_bits/c/0").unlink()
    assert cli.main(["verify", str(url)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for key in looped:
        assert any("Too many levels of symbolic links" in line and key in line for line in lines)
    assert any("hyper_bits/c/0 is missing" in line for line in lines)
    # The root's consolidated metadata shows rankings too: it needs them all.
    shutil.rmtree(url / f"codecs/{codec_id}/rankings")
    assert cli.main(["finalize", str(url)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("Too many levels" in line for line in lines)
    assert any(line.endswith(": complete, 3 shards") for line in lines)
