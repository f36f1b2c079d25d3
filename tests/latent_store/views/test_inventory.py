"""`latent-store inspect` and `verify` for programs: stable keys, and every byte of a store."""

from __future__ import annotations

import json

import pytest

from latent_store import cli
from tests.conftest import RANKING, TRAIN, VAL, TinyStore


def told(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict:
    capsys.readouterr()
    assert cli.main([str(word) for word in (*words, "--json")]) == status
    return json.loads(capsys.readouterr().out)


def test_inspect_counts_every_byte(
    tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "inspect", tiny_store.url)
    assert list(found) == [
        *("url", "bytes", "bytes_of", "codecs", "teachers", "splits", "strays"),
    ]
    files = [path for path in tiny_store.url.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    parts = found["bytes_of"]
    assert list(parts) == ["components", "codecs", "teachers", "records", "other"]
    assert sum(parts.values()) == found["bytes"]
    assert parts["other"] == 0
    (teacher,) = found["teachers"]
    path = tiny_store.url / f".latent_store/teachers/{teacher['teacher_id']}.pt"
    assert parts["teachers"] == teacher["bytes"] == path.stat().st_size
    (codec,) = found["codecs"]
    # Beside it lie their group's metadata and the number of a lease.
    assert 0 < parts["codecs"] - codec["bytes"] < 100
    assert (codec["channels"], codec["rankings"][0]["ranking_id"]) == (192, RANKING)
    assert found["strays"] == []
    by_name = {split["name"]: split for split in found["splits"]}
    assert [by_name[f"cityscapes/{name}"]["samples"] for name in ("train", "val")] == [TRAIN, VAL]
    components = by_name["cityscapes/val"]["components"]
    assert {c["key"].partition("/")[0] for c in components} >= {"labels", "latents", "teacher"}
    for c in components:
        assert list(c) == [
            *("key", "state", "bytes", "samples", "views", "failed", "absent", "bpp", "psnr"),
            "psnr_samples",
        ]
        assert (c["state"], c["samples"], c["failed"]) == ("complete", VAL, 0)
    capsys.readouterr()
    assert cli.main(["inspect", str(tiny_store.url)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"in all {found['bytes'] / 2**20:.2f} MiB: components ")


def test_names_that_go_on_after_a_dot_are_counted_once(
    copied_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = told(capsys, "inspect", copied_store.url)
    control = copied_store.url / ".latent_store"
    (teacher,), (codec,) = before["teachers"], before["codecs"]
    (control / f"teachers/{teacher['teacher_id']}.b.pt").write_bytes(bytes(100))
    (control / f"codecs/{codec['codec_id']}.b.pth.tar").write_bytes(bytes(1000))
    found = told(capsys, "inspect", copied_store.url)
    other = {"teacher_id": f"{teacher['teacher_id']}.b", "bytes": 100}
    assert found["teachers"] == [teacher, other]
    assert found["codecs"] == before["codecs"]
    grown = {name: found["bytes_of"][name] - size for name, size in before["bytes_of"].items()}
    assert grown == {"components": 0, "codecs": 1000, "teachers": 100, "records": 0, "other": 0}


def test_verify_names_defects_and_strays(
    copied_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["url", "deep", "holds", "defects", "strays", "dropped_shards"]
    found = told(capsys, "verify", copied_store.url)
    assert list(found) == keys
    assert (found["holds"], found["defects"]) == (True, [])
    (copied_store.url / "stray.txt").write_text("no part of it")
    objects = (copied_store.url / "cityscapes/val/labels/segmentation/c").rglob("*")
    damaged = next(path for path in objects if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = told(capsys, "verify", copied_store.url, "--repair", status=1)
    assert (found["holds"], found["dropped_shards"]) == (False, 1)
    (defect,) = found["defects"]
    assert list(defect) == [
        *("where", "what", "split", "component", "shard", "metadata", "unread"),
    ]
    assert (defect["split"], defect["component"]) == ("cityscapes/val", "labels")
    assert isinstance(defect["shard"], int)
    assert found["strays"] == ["stray.txt"]
