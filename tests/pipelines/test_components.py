"""Components side by side: jobs on different ones run at once, and none touches another's."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import latent_store
from latent_store import cli
from latent_store.shards.receipts import crc32c
from tests.conftest import TinyStore
from tests.latent_store.codec.made_codec import make_model, save
from training.networks.network_config import NetworkConfig
from training.tasks.classes import CITYSCAPES_CLASSES
from training.tasks.registry import build_network
from training.trainer.checkpoints import save_checkpoint

ENCODE = "from pipelines.encode import main; raise SystemExit(main())"


def start_encoding(store: TinyStore, *what: str) -> subprocess.Popen[str]:
    """Starts a job of its own process that adds something to the train split."""
    args = [
        *("--dataset", "cityscapes", "--data_root", str(store.data_root), "--split", "train"),
        *("--store", str(store.url), "--threads", "1", *what),
    ]
    command = [sys.executable, "-c", ENCODE, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def contents(folder: Path) -> dict[str, int]:
    """Returns the crc32c of every file below a component's folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): crc32c(path.read_bytes()) for path in files}


def test_a_second_codec_and_a_second_teacher_join_at_once_while_the_first_are_read(
    copied_store: TinyStore, tmp_path: Path
) -> None:
    split = latent_store.open(copied_store.url)["cityscapes/train"]
    latents, first = split.latents(), split.teacher().teacher_id
    y_hat_BCHW = latents.read(latents.rows)
    folders = [copied_store.url / "cityscapes/train" / key for key in (latents.key, "labels")]
    before = [contents(folder) for folder in folders]
    codec, teacher = tmp_path / "made.pth.tar", tmp_path / "second.pt"
    codec.write_bytes(save(make_model(8, 12).state_dict()))
    torch.manual_seed(1)
    network = build_network(NetworkConfig(domain="pixel", backbone="resnet18", num_classes=19))
    meta = {"kind": "teacher", "dataset": "cityscapes", "class_names": list(CITYSCAPES_CLASSES)}
    save_checkpoint(teacher, network, meta=meta)
    jobs = [
        start_encoding(copied_store, "--codec_checkpoint", str(codec)),
        start_encoding(copied_store, "--teacher_checkpoint", str(teacher)),
    ]
    while any(job.poll() is None for job in jobs):
        # The finished components stay readable, and stay what they were.
        open_now = latent_store.open(copied_store.url)["cityscapes/train"]
        now = open_now.latents(latents.spec.codec_id).read(latents.rows)
        np.testing.assert_array_equal(now, y_hat_BCHW)
        time.sleep(0.2)  # the jobs need the cores
    outputs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    store = latent_store.open(copied_store.url)
    assert len(store.codecs()) == len(store.teachers()) == 2
    assert all(store["cityscapes/train"].components().values())
    assert [contents(folder) for folder in folders] == before
    assert store["cityscapes/train"].teacher(first).rows.tolist() == latents.rows.tolist()
    assert cli.main(["verify", str(copied_store.url), "--deep"]) == 0
