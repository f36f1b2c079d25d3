"""`encode-to-store --dry_run` says what encoding takes, from one picture that it encodes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latent_store
from pipelines import encode
from tests.conftest import TRAIN, TinyStore
from tests.pipelines.test_encode import codec_args, images_of


def test_a_dry_run_measures_one_picture_for_real(
    tiny_store: TinyStore, tmp_path: Path, capsys: Any
) -> None:
    """Its estimate is held against what the same flags have written."""
    args = codec_args(tiny_store.data_root, tmp_path / "s.zarr", "train", "--dry_run")
    assert encode.main(args) == 0
    out = capsys.readouterr().out
    found = re.search(r"/?latents/\S+ .* to write, about ([0-9.]+) MiB after it", out)
    key = latent_store.open(tiny_store.url)["cityscapes/train"].latents().group.path
    stored = sum(
        path.stat().st_size
        for path in (tiny_store.url / key).rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    assert float(found[1]) == pytest.approx(stored / 2**20, rel=0.3, abs=0.01)
    assert "measured on one picture, encoded for real: " in out
    assert re.search(rf"at this rate {TRAIN} of them, .* take about [0-9]+ (s|min) in one", out)
    there = [str(tiny_store.url) if word == str(tmp_path / "s.zarr") else word for word in args]
    assert encode.main(there) == 0
    assert "at this rate" not in capsys.readouterr().out


def test_a_picture_that_cannot_be_used_is_passed_over(
    scene_root: Path, tmp_path: Path, capsys: Any, fails: Callable[..., str]
) -> None:
    own_root = tmp_path / "root"
    shutil.copytree(scene_root, own_root)
    images = images_of(own_root)
    for image in images[:3]:
        image.write_bytes(image.read_bytes()[:2000])
    args = codec_args(own_root, tmp_path / "s.zarr", "val", "--dry_run")
    assert encode.main(args) == 0
    out = capsys.readouterr().out
    assert f"encoded for real: {images[3].stem.removesuffix('_leftImg8bit')}, " in out
    images[3].write_bytes(images[3].read_bytes()[:2000])
    assert f"cannot read picture leftImg8bit/val/procedural/{images[0].name}" in fails(
        encode.main, args
    )
    assert encode.main([*args, "--max_failures", "4"]) == 0
    assert "no picture could be used to measure time and compression" in capsys.readouterr().out
    assert not (tmp_path / "s.zarr").exists()
