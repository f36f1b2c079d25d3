"""What the chain writes and prints holds neither the data root's path nor any credentials."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from latent_store import cli
from pipelines import encode, train_codec, train_teacher
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from training import evaluate, train

USER, SIGNATURE, ROOT = "PASSWORD", "SIGNATURE", "MARKEDROOT"
STORE = f"memory://user:{USER}@private/s.zarr?X-Amz-Signature={SIGNATURE}"
ELSEWHERE = f"memory://user:{USER}@private/none?X-Amz-Signature={SIGNATURE}"
SMALL = (
    *("--backbone", "resnet18", "--aspp_width", "8", "--batch_size", "2", "--max_steps", "1"),
    *("--crop", "64", "--device", "cpu", "--no-tensorboard"),
)
FRESH = ("--pretrained", "none")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Three training scenes, one of them without a byte, and one for validation."""
    root = tmp_path / ROOT / "data"
    CityscapesScenes(train=3, val=1, height=64, width=64, seed=7).generate(root)
    next((root / "leftImg8bit/train").rglob("*.png")).write_bytes(b"")
    return root


def test_paths_and_credentials_are_in_nothing_that_the_commands_write_or_print(
    data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = fsspec.filesystem("memory")
    before = set(memory.find("/"))  # Other tests of this process have their stores there, too.
    out = tmp_path / "out"
    out.mkdir()
    teacher, static = out / "teacher/last.pt", out / "all/last.pt"
    scenes = ("--dataset", "cityscapes", "--data_root", data_root)
    stored = ("--store", STORE, "--dataset", "cityscapes")
    encoding = (*scenes, "--store", STORE, "--demo_codec", "--threads", 1, "--max_failures", 1)
    training = ("--output", out / "all", "--split", "train", "--transform_init", "fresh")
    commands = [
        (
            train_teacher,
            [*scenes, "--split", "val", "--output", teacher.parent, *SMALL[:4], *FRESH],
        ),
        (encode, [*encoding, "--split", "train", "--teacher_checkpoint", teacher]),
        (encode, [*encoding, "--split", "val"]),
        (train, [*stored, *training, *SMALL]),
        (evaluate, [*stored, "--split", "val", "--checkpoint", static, "--output", out / "eval"]),
        (cli, ["inspect", STORE]),
        (cli, ["verify", STORE]),
    ]
    commands[0][1].extend(["--val_split", "none", "--device", "cpu", "--no-tensorboard"])
    commands[0][1].extend(["--batch_size", 1, "--freeze_batch_norm", "--max_steps", 1])
    for module, words in commands:
        assert module.main([str(word) for word in words]) == 0
    failing = [
        (train, [*stored, *training, *SMALL]),
        (train, ["--store", ELSEWHERE, *training]),
        (train, [*stored, "--split", "none", "--output", out / "other"]),
        (encode, [*scenes[:3], ELSEWHERE, "--split", "val", "--store", STORE, "--demo_codec"]),
        (cli, ["inspect", ELSEWHERE]),
        (cli, ["decode", STORE, "--sample", "none", "--output", out / "none.png"]),
        (cli, ["inspect", f"nope://user:{USER}@private"]),
        (train_codec, ["--data", data_root / "nothing", "--output", out / "codec.pth.tar"]),
    ]
    for module, words in failing:
        assert module.main([str(word) for word in words]) == 2
    output = "".join(capfd.readouterr())
    assert output.count("memory://private/s.zarr") > 2
    found = [("what is printed", output.encode())]
    found += [text for path in out.rglob("*") if path.is_file() for text in texts(path)]
    written = [path for path in memory.find("/") if path not in before]
    found += [text for path in written for text in texts(path, memory.cat_file(path))]
    names = [name for name, _ in found]
    # What could be missed without looking into it: tensors' pickles, tables, attributes.
    for kind in (
        "last.pt!archive/data.pkl",
        "finished.json",
        "config.json",
        "last.safetensors",
        "results.json",
        ".dead_letters.parquet!",
        "/train/plan/000000-",
        "zarr.json",
    ):
        assert any(kind in name for name in names), kind  # fmt: skip
    for mark in (USER, SIGNATURE):
        assert [name for name, text in found if mark.encode() in text] == []
    # Printed to the user, who gave it, a path may be: written it may not.
    assert [name for name, text in found[1:] if ROOT.encode() in text] == []


def texts(path: Path | str, data: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and those of what is packed in it."""
    data = Path(path).read_bytes() if data is None else data
    name = str(path).replace(USER, "").replace(SIGNATURE, "")
    yield name, data
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                yield from texts(f"{name}!{entry}", archive.read(entry))
    elif data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        yield f"{name}!", repr((table.to_pylist(), table.schema.metadata)).encode()
