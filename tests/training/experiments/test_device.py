"""What is carried to a machine with a GPU, and what comes back: parts, pieces, time."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import tarfile
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_store import cli
from latent_store.errors import JobFailedError
from pipelines.datasets.registry import DatasetFlags, open_dataset
from training.experiments.device import needs, on_gpu, pack
from training.experiments.grid_file import load_grid


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
    path = made.teacher(1)
    path.parent.mkdir()
    path.write_bytes(content)
    made.deliver(path)
    pieces = sorted((tmp_path / "out").iterdir())
    assert [piece.name for piece in pieces] == [f"teacher1-last.pt.{n}" for n in range(3)]
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
    (made.logs / "report").mkdir()
    for name in ("teacher.log", "grid.log", "report/report.md"):
        (made.logs / name).write_text("said\n")
    stop.set()
    packer.join()
    # Whatever is said, few files come back.
    assert {path.name for path in made.output.iterdir()} == {"records.tar.gz", "logs.tar.gz"}
    assert names_in(tmp_path / "out/logs.tar.gz") >= {"teacher.log", "report/report.md"}


def test_the_selfcheck_names_each_codec_of_the_call(tmp_path: Path) -> None:
    grid = load_grid("city256")
    for codecs in (list(grid.codecs), list(grid.codecs)[:1]):
        made = machine(tmp_path)
        made.args.codecs = codecs if len(codecs) == 1 else None
        words = [[str(word) for word in call] for call in on_gpu.selfchecks(made, grid)]
        found = [cli.make_flags().parse_args(call).codec for call in words]
        assert found == [grid.codecs[name] for name in codecs]


def test_each_seed_has_a_teacher_where_the_grid_says_so() -> None:
    grid = load_grid("city256")
    assert on_gpu.teacher_seeds(grid) == {0: 0, 1: 1, 2: 2}
    shared = dataclasses.replace(grid, teacher_per_seed=False)
    assert on_gpu.teacher_seeds(shared) == {0: 0, 1: 0, 2: 0}


def test_weights_that_were_not_carried_are_refused(tmp_path: Path) -> None:
    made = machine(tmp_path, pretrained="w.pth")
    with pytest.raises(JobFailedError, match=r"no file .*w\.pth: carry the teacher's weights"):
        on_gpu._weights(made.args)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/w.pth").touch()
    assert on_gpu._weights(made.args) == tmp_path / "files/w.pth"
    assert on_gpu._weights(machine(tmp_path, pretrained="none").args) == "none"


def test_all_that_a_machine_lacks_is_named_at_once() -> None:
    assert needs.missing(["json", "no_such_one", "no_such_two", "os"]) == [
        "no_such_one",
        "no_such_two",
    ]
    covered = {
        distribution.lower().replace("_", "-")
        for module, distributions in importlib.metadata.packages_distributions().items()
        for distribution in distributions
        if module in {name.partition(".")[0] for name in needs.MODULES}
    }
    lines = Path(needs.__file__).with_name("lacking.txt").read_text().splitlines()
    assert covered >= {line.partition("==")[0] for line in lines if not line.startswith("#")}
    # Reading a store needs these: carried, or on the machine.
    project = tomllib.loads((Path(needs.__file__).parents[3] / "pyproject.toml").read_text())
    assert covered >= {line.partition(">")[0] for line in project["project"]["dependencies"]}


def test_fewer_pictures_are_spread_over_all(tmp_path: Path) -> None:
    paths = [Path(f"{number}.png") for number in range(10)]
    assert pack._spaced(paths, 5) == paths[::2]
    assert pack._spaced(paths, 20) == pack._spaced(paths, None) == paths


def test_a_command_is_ended_when_the_time_is_over(tmp_path: Path) -> None:
    made = machine(tmp_path, minutes=(on_gpu._GRACE_SECONDS + 1) / 60)
    started = made.start("log", "http.server", "--bind", "127.0.0.1", "0")
    with pytest.raises(JobFailedError, match=r"the time was over .*; the same call goes on"):
        made.finish(started)
    made.end()  # It waits for what it told to end.
    assert started.returncode not in (None, 0)
    failed = made.start("log", "no_such_module")
    with pytest.raises(JobFailedError, match=r"no_such_module ended with 1; see logs.tar.gz in"):
        machine(tmp_path).finish(failed)
