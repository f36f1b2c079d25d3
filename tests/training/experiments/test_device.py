"""What is carried to a machine with a GPU, and what comes back: parts, pieces, time."""

from __future__ import annotations

import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_store.errors import JobFailedError
from pipelines.datasets.registry import DatasetFlags, open_dataset
from training.experiments.device import on_gpu, pack


def test_parts_keep_to_their_size_and_are_a_data_root_together(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = tmp_path / "codec.pth.tar"
    codec.write_bytes(bytes(700_000))
    words = ["--data_root", str(scene_root), "--files", str(codec), "--part_mb", "1"]
    assert pack.main([*words, "--output", str(tmp_path / "parts")]) == 0
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == len(capsys.readouterr().out.splitlines())
    assert all(part.stat().st_size <= 1_000_000 for part in parts)
    for part in parts:
        with tarfile.open(part) as tar:
            tar.extractall(tmp_path / "carried", filter="data")
    assert (tmp_path / "carried/files/codec.pth.tar").read_bytes() == codec.read_bytes()
    mine, theirs = (
        open_dataset(DatasetFlags(dataset="cityscapes", data_root=str(root)))
        for root in (tmp_path / "carried/data", scene_root)
    )
    for split in ("train", "val"):
        samples = list(zip(mine.manifest(split), theirs.manifest(split), strict=True))
        assert [a.sample_id for a, _ in samples] == [b.sample_id for _, b in samples]
        for a, b in samples:
            assert np.array_equal(mine.read_labels(a), theirs.read_labels(b))
    picture = next((tmp_path / "carried/data/leftImg8bit").rglob("*.png"))
    original = scene_root / picture.relative_to(tmp_path / "carried/data")
    with Image.open(picture) as jpeg, Image.open(original) as png:
        assert jpeg.format == "JPEG"
        error = np.asarray(jpeg, np.float64) - np.asarray(png.convert("RGB"), np.float64)
    assert 0 < np.abs(error).mean() < 3


def test_a_root_without_pictures_is_refused(tmp_path: Path, fails) -> None:
    words = ["--data_root", str(tmp_path), "--output", str(tmp_path / "parts")]
    assert "no pictures in" in fails(pack.main, words)


def machine(tmp_path: Path, **changed: object) -> on_gpu.Machine:
    words = ["--carried", tmp_path, "--work", tmp_path / "work", "--output", tmp_path / "out"]
    words += [word for name, value in changed.items() for word in (f"--{name}", value)]
    return on_gpu.Machine(on_gpu.make_flags().parse_args([str(word) for word in words]))


def test_a_large_file_comes_back_in_pieces_that_join(tmp_path: Path) -> None:
    made = machine(tmp_path, piece_mb=1)
    content = np.random.default_rng(0).bytes(2_500_000)
    made.teacher.parent.mkdir()
    made.teacher.write_bytes(content)
    made.deliver(made.teacher)
    pieces = sorted((tmp_path / "out").iterdir())
    assert [piece.name for piece in pieces] == [f"teacher-last.pt.{n}" for n in range(3)]
    assert b"".join(piece.read_bytes() for piece in pieces) == content


def names_in(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return set(tar.getnames())


def test_records_are_packed_while_more_are_made(tmp_path: Path) -> None:
    made, stop = machine(tmp_path), threading.Event()
    packer = threading.Thread(target=made.deliver_records, args=(stop,))
    packer.start()
    packed, names = tmp_path / "out/records.tar.gz", set()
    for number in range(2):
        record = made.records / f"grid/{number}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text("{}")
        names.add(f"grid/{number}.json")
        while not packed.exists() or names != names_in(packed):
            time.sleep(0.05)
    stop.set()
    packer.join()


def test_a_command_is_ended_when_the_time_is_over(tmp_path: Path) -> None:
    made = machine(tmp_path, minutes=(on_gpu._GRACE_SECONDS + 1) / 60)
    started = made.start("log", "http.server", "--bind", "127.0.0.1", "0")
    with pytest.raises(JobFailedError, match=r"the time was over .*; the same call goes on"):
        made.finish(started)
    assert started.wait(30) != 0
    failed = made.start("log", "no_such_module")
    with pytest.raises(JobFailedError, match=r"no_such_module ended with 1; see the logs in"):
        machine(tmp_path).finish(failed)
