"""`encode-to-store`: what it writes, how it goes on after any interruption, what it refuses."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store.codec import image_to_tensor, pad_image
from latent_store.format.feature_encoding import KEEPBITS
from latent_store.shards import receipts
from latent_store.storage.lease import Lease
from latent_store.storage.location import CONTROL, Location
from latent_store.tools import verify as integrity
from latent_store.tools.verify_streams import check_streams
from pipelines import encode, frequency, reorder
from pipelines.datasets.cityscapes import TRAIN_ID_TABLE
from pipelines.jobs.encoding import load_stem
from tests.conftest import (
    CODEC,
    HEIGHT,
    TRAIN,
    VAL,
    WIDTH,
    TinyStore,
    encode_args,
    without_codec,
)
from tests.latent_store.mutations import unnumbered

Fails = Callable[..., str]


@pytest.fixture
def own_root(scene_root: Path, tmp_path: Path) -> Path:
    """A copy of the data root that a test may damage."""
    return Path(shutil.copytree(scene_root, tmp_path / "data"))


def codec_args(root: Path, url: Path, split: str = "val", *more: str) -> list[str]:
    return [
        *("--dataset", "cityscapes", "--data_root", str(root), "--split", split),
        *("--store", str(url), *CODEC, "--samples_per_shard", "2", "--threads", "1"),
        *("--psnr", "none", *more),
    ]


def images_of(root: Path, split: str = "val") -> list[Path]:
    return sorted((root / "leftImg8bit" / split / "procedural").glob("*.png"))


def contents(url: Path) -> dict[str, bytes]:
    """Returns every object of a store but locks and leases, and the numbers of leases."""
    files = (path for path in url.rglob("*") if path.is_file() and "leases" not in path.parts)
    return {str(path.relative_to(url)): unnumbered(path) for path in sorted(files)}


def test_labels_are_padded_train_ids(tiny_store: TinyStore) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/val"]
    path = sorted((tiny_store.data_root / "gtFine/val/procedural").glob("*_labelIds.png"))[1]
    expected = TRAIN_ID_TABLE[np.asarray(Image.open(path))]
    np.testing.assert_array_equal(split.labels().read([1])[0, :HEIGHT, :WIDTH], expected)


def test_features_are_the_teachers_stem_to_half_a_kept_bit(tiny_store: TinyStore) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/val"]
    reader = split.teacher()
    stem = load_stem(Location(tiny_store.url), reader.teacher_id)
    image_HWC = np.asarray(Image.open(images_of(tiny_store.data_root)[2]).convert("RGB"))
    with torch.inference_mode():
        exact = stem(image_to_tensor(pad_image(image_HWC)))[0].numpy()
    kept = 0.5001 * 2.0**-KEEPBITS
    np.testing.assert_allclose(reader.read([2])[0], exact, rtol=kept, atol=1e-6)


def test_the_gate_pools_what_is_stored(tiny_store: TinyStore) -> None:
    latents = latent_store.open(tiny_store.url)["cityscapes/val"].latents()
    y_hat = latents.read(latents.rows).astype(np.float64).reshape(VAL, 192, -1)
    np.testing.assert_allclose(latents.column("channel_mean", latents.rows), y_hat.mean(2), 1e-5)
    rms = np.sqrt((y_hat**2).mean(2))
    np.testing.assert_allclose(latents.column("channel_rms", latents.rows), rms, 1e-5)


def test_a_complete_split_is_left_alone(copied_store: TinyStore, capsys: Any) -> None:
    before = contents(copied_store.url)
    assert encode.main(encode_args(copied_store, "val")) == 0
    assert "everything asked for is there (4 samples)" in capsys.readouterr().out
    assert contents(copied_store.url) == before


def test_killed_and_run_again_it_ends_like_an_undisturbed_run(
    scene_root: Path, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm.zarr", tmp_path / "killed.zarr"
    assert encode.main(codec_args(scene_root, calm, "train")) == 0
    script = Path(sys.executable).with_name("encode-to-store")
    command = [str(script), *codec_args(scene_root, killed, "train")]
    process = subprocess.Popen(command, start_new_session=True, env=os.environ | {"CI": "1"})
    location = Location(killed)

    def finished() -> set[int]:
        return set(receipts.finished_shards(location, "cityscapes/train", "labels"))

    deadline = time.monotonic() + 120
    while not finished() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = receipts.read_receipts(location, "cityscapes/train", "labels", finished())
    assert done, "it was killed before the first shard was whole"
    stamps = {
        key: (killed / key).stat().st_mtime_ns
        for receipt in done.values()
        for key in receipt.objects
    }
    assert encode.main(codec_args(scene_root, killed, "train")) == 0
    assert contents(killed) == contents(calm)
    # Finished shards were not written again.
    assert {key: (killed / key).stat().st_mtime_ns for key in stamps} == stamps


def test_more_samples_are_appended_from_a_new_shard_on(scene_root: Path, tmp_path: Path) -> None:
    url = tmp_path / "s.zarr"
    assert encode.main(codec_args(scene_root, url, "train", "--max_samples", "3")) == 0
    first = latent_store.open(url)["cityscapes/train"].latents()
    before = first.read(first.rows)
    assert first.rows.tolist() == [0, 1, 2]
    assert encode.main(codec_args(scene_root, url, "train")) == 0
    split = latent_store.open(url)["cityscapes/train"]
    latents = split.latents()
    assert latents.rows.tolist() == [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(latents.read([0, 1, 2]), before)
    np.testing.assert_array_equal(split.common_rows(latents, split.labels()), latents.rows)
    assert list(integrity.verify(Location(url), deep=check_streams)) == []


def test_features_can_be_added_later_and_touch_nothing_else(
    scene_root: Path, teacher_checkpoint: Path, tmp_path: Path, tiny_store: TinyStore
) -> None:
    url = tmp_path / "s.zarr"
    assert encode.main(codec_args(scene_root, url)) == 0
    before = contents(url)
    args = without_codec(codec_args(scene_root, url))
    assert encode.main([*args, "--teacher_checkpoint", str(teacher_checkpoint)]) == 0
    after = contents(url)
    latents = {key: data for key, data in before.items() if "/latents/" in key}
    assert latents
    assert {key: after[key] for key in latents} == latents
    added = latent_store.open(url)["cityscapes/val"].teacher()
    at_once = latent_store.open(tiny_store.url)["cityscapes/val"].teacher()
    np.testing.assert_array_equal(added.read(added.rows), at_once.read(at_once.rows))


def test_a_dry_run_writes_nothing(scene_root: Path, tmp_path: Path, capsys: Any) -> None:
    url = tmp_path / "s.zarr"
    assert encode.main(codec_args(scene_root, url, "train", "--dry_run")) == 0
    out = capsys.readouterr().out
    assert f"{TRAIN} samples of {HEIGHT}x{WIDTH}, coded at 128x192, in 3 shards of 2" in out
    assert not url.exists()


def test_a_bad_picture_fails_its_row_not_the_job(
    own_root: Path, tmp_path: Path, fails: Fails
) -> None:
    url = tmp_path / "s.zarr"
    image = images_of(own_root)[1]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    line = fails(encode.main, codec_args(own_root, url), status=1)
    assert "1 samples of cityscapes/val/labels failed, more than --max_failures 0" in line
    assert f"{image.name}: " in line
    assert "mend them and run the same job again" in line
    letters = url / CONTROL / "cityscapes/val/labels.dead_letters.parquet"
    assert letters.exists()
    # Mended, the same command re-encodes that shard and closes.
    image.write_bytes(whole)
    assert encode.main(codec_args(own_root, url)) == 0
    assert latent_store.open(url)["cityscapes/val"].latents().rows.tolist() == [0, 1, 2, 3]
    assert not letters.exists()


def test_tolerated_failures_leave_a_hole(own_root: Path, tmp_path: Path, capsys: Any) -> None:
    url = tmp_path / "s.zarr"
    image = images_of(own_root)[1]
    image.write_bytes(image.read_bytes()[:2000])
    assert encode.main(codec_args(own_root, url, "val", "--max_failures", "1")) == 0
    assert "3 samples in 2 shards, 1 failed" in capsys.readouterr().out
    split = latent_store.open(url)["cityscapes/val"]
    assert split.common_rows(split.latents(), split.labels()).tolist() == [0, 2, 3]


def test_tolerated_failures_are_tried_again_on_request(
    own_root: Path, tmp_path: Path, capsys: Any
) -> None:
    url = tmp_path / "s.zarr"
    image = images_of(own_root)[1]
    whole = image.read_bytes()
    image.write_bytes(whole[:2000])
    assert encode.main(codec_args(own_root, url, "val", "--max_failures", "1")) == 0
    ranked = ["--store", str(url), "--dataset", "cityscapes", "--split", "val", "--ranking", "any"]
    assert frequency.main([*ranked, "--method", "random"]) == 0
    assert reorder.main(ranked) == 0
    image.write_bytes(whole)
    capsys.readouterr()
    # What the first job tolerated stays tolerated, and is told.
    assert encode.main(codec_args(own_root, url)) == 0
    assert "1 of them failed; --max_failures 0 tries those again" in capsys.readouterr().out
    split = latent_store.open(url)["cityscapes/val"]
    assert split.latents().rows.tolist() == [0, 2, 3]
    assert encode.main(codec_args(own_root, url, "val", "--max_failures", "0")) == 0
    split = latent_store.open(url)["cityscapes/val"]
    assert split.common_rows(split.latents(), split.labels()).tolist() == [0, 1, 2, 3]
    assert encode.main(codec_args(own_root, url)) == 0
    assert "everything asked for is there (4 samples)" in capsys.readouterr().out
    # The copy of the latents that a ranking made follows them.
    assert split.ranked("any").rows.tolist() == [0, 2, 3]
    assert reorder.main(ranked) == 0
    assert latent_store.open(url)["cityscapes/val"].ranked("any").rows.tolist() == [0, 1, 2, 3]


def test_labels_of_another_size_are_refused(own_root: Path, tmp_path: Path, fails: Fails) -> None:
    label = next((own_root / "gtFine/val/procedural").glob("*_labelIds.png"))
    Image.new("L", (20, 10)).save(label)
    line = fails(encode.main, codec_args(own_root, tmp_path / "s.zarr"), status=1)
    assert f"is 10x20, its image is {HEIGHT}x{WIDTH} (height x width)" in line


def test_missing_inputs_are_named(own_root: Path, tmp_path: Path, fails: Fails) -> None:
    url = tmp_path / "s.zarr"
    assert "no data root at /no/where" in fails(encode.main, codec_args(Path("/no/where"), url))
    line = fails(encode.main, codec_args(own_root, url, "test"))
    assert "leftImg8bit/test/*/*_leftImg8bit.png" in line
    assert "there are: train, val" in line
    next((own_root / "gtFine/val/procedural").glob("*_labelIds.png")).unlink()
    line = fails(encode.main, codec_args(own_root, url))
    assert "1 of 4 images have no label file" in line
    line = fails(encode.main, without_codec(codec_args(own_root, url)))
    assert "nothing to encode with: give --codec_checkpoint" in line
    for flag, value, source in (
        ("--entry", "layer2", "--teacher_checkpoint"),
        ("--teacher_dtype", "float16", "--teacher_checkpoint"),
        ("--metric", "ms-ssim", "--quality"),
        ("--architecture", "mbt2018-mean", "--quality"),
    ):
        line = fails(encode.main, codec_args(own_root, url, "train", flag, value))
        assert f"{flag} {value} is of {source}, which is not given: give both, or neither" in line
    line = fails(encode.main, codec_args(own_root, url, "val", "--sampels_per_shard", "3"))
    assert "unknown flag --sampels_per_shard, --samples_per_shard is one; see" in line
    assert not url.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--dataset_id", "a/b"), "'a/b' cannot be a dataset's id: a name is one line"),
        (("--dataset_id", ".."), "'..' cannot be a dataset's id: a name is one line"),
        (("--dataset_id", "../../oops"), "'../../oops' cannot be a dataset's id"),
        (("--dataset_id", " "), "--dataset_id must not be empty"),
        (("--dataset_id", ""), "--dataset_id must not be empty"),
        (("--dataset_id", "a\nb"), "'a\\nb' cannot be a dataset's id"),
        (("--dataset_id", "x" * 256), "of up to 255 bytes"),
        (("--dataset_id", "codecs"), "a store's own files are called codecs, zarr.json, or begin"),
        (("--dataset_id", CONTROL), "or begin with a dot"),
        (("--split", "../train"), "'../train' cannot be a split's name"),
        (("--max_failures", "-1"), "--max_failures must be 0 or more, got -1"),
        (("--max_samples", "-1"), "--max_samples must be 1 or more, got -1"),
        (("--threads", "-3"), "--threads must be 1 to 1024, got -3"),
        (("--samples_per_shard", "0"), "--samples_per_shard must be 1 or more, got 0"),
        (("--canvas", "-64", "64"), "--canvas must be 64 to 65536, got -64"),
        (("--quality", "9"), "--quality must be 1 to 8, got 9"),
    ],
)
def test_bad_names_and_numbers_are_refused_first(
    scene_root: Path, tmp_path: Path, fails: Fails, more: tuple[str, ...], message: str
) -> None:
    url = tmp_path / "deep/er/s.zarr"
    args = codec_args(scene_root, url)
    args = without_codec(args) if more[0] == "--quality" else args
    assert message in fails(encode.main, [*args, *more])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--environment_type", "NOPE"), "these options: Unknown environment type: NOPE; see"),
        (
            ("--environment_type", "PROCESS", "--environment_config", "{x"),
            "Beam cannot run with these options",
        ),
        (("--direct_num_workers", "-1"), "--direct_num_workers must be 0 to 1024, got -1"),
        (("--direct_num_workers", "x"), "--direct_num_workers: invalid int value: 'x'"),
        (("--direct_runner_bundle_repeat", "-1"), "bundle_repeat must be 0 or more, got -1"),
        (("--pickle_library", "dil"), "--pickle_library: invalid choice: 'dil'"),
        (("--direct_running_mode", "multiprocessing"), "invalid choice: 'multiprocessing'"),
    ],
)
def test_what_beam_cannot_run_with_is_refused_first(
    scene_root: Path, tmp_path: Path, fails: Fails, more: tuple[str, ...], message: str
) -> None:
    assert message in fails(encode.main, codec_args(scene_root, tmp_path / "s.zarr", "val", *more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("dill") is not None, reason="dill is installed")
def test_a_pickle_library_that_is_not_there_is_refused_first(
    scene_root: Path, tmp_path: Path, fails: Fails
) -> None:
    args = codec_args(scene_root, tmp_path / "s.zarr", "val", "--pickle_library", "dill")
    assert "pickle_library=dill is set, but dill is not installed" in fails(encode.main, args)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_data_root_is_refused(own_root: Path, tmp_path: Path, fails: Fails) -> None:
    url = tmp_path / "s.zarr"
    assert encode.main(codec_args(own_root, url)) == 0
    image = images_of(own_root)[2]
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    line = fails(encode.main, codec_args(own_root, url))
    stem = image.name.removesuffix("_leftImg8bit.png")
    assert f"the data root changed since the plan was made: {stem} has image_bytes" in line
    image.unlink()
    (own_root / f"gtFine/val/procedural/{stem}_gtFine_labelIds.png").unlink()
    assert f"{stem} is gone" in fails(encode.main, codec_args(own_root, url))


def test_another_shard_size_is_refused(tiny_store: TinyStore, fails: Fails) -> None:
    args = encode_args(tiny_store, "val", "--samples_per_shard", "3")
    assert "plan has 2 samples a shard, --samples_per_shard is 3" in fails(encode.main, args)


def test_a_foreign_checkpoint_is_refused(
    scene_root: Path, teacher_checkpoint: Path, tmp_path: Path, fails: Fails
) -> None:
    args = without_codec(codec_args(scene_root, tmp_path / "s.zarr"))
    line = fails(encode.main, [*args, "--codec_checkpoint", str(teacher_checkpoint)])
    assert "teacher.pt holds a dict with the keys format, format_version" in line
    bad = tmp_path / "bmshj2018-hyperprior-x-00000000.pth.tar"
    bad.write_bytes(b"no checkpoint")
    line = fails(encode.main, [*args, "--codec_checkpoint", str(bad)])
    assert "00000000" in line


def test_a_second_job_on_the_same_component_is_refused(
    scene_root: Path, tmp_path: Path, fails: Fails
) -> None:
    url = tmp_path / "s.zarr"
    url.mkdir()
    with Lease(Location(url), "cityscapes/val", "labels"):
        line = fails(encode.main, codec_args(scene_root, url))
    assert "cityscapes/val/labels is being written by process" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission_is_one_line(scene_root: Path, tmp_path: Path, fails: Fails) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    line = fails(encode.main, codec_args(scene_root, closed / "s.zarr"), status=1)
    assert "Permission denied" in line


def test_a_full_disk_leaves_nothing_half_written(
    scene_root: Path, teacher_checkpoint: Path, tmp_path: Path
) -> None:
    """A file size limit stands in for the full disk: the same write call fails half way."""
    url = tmp_path / "s.zarr"
    teacher = ("--teacher_checkpoint", str(teacher_checkpoint))
    code = (
        "import resource, signal, sys\n"
        "from pipelines import encode\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (46_000, 46_000))\n"
        "sys.exit(encode.main(sys.argv[1:]))\n"
    )
    assert encode.main(codec_args(scene_root, url, "val", "--max_samples", "2", *teacher)) == 0
    done = subprocess.run(
        [sys.executable, "-c", code, *codec_args(scene_root, url, "val", *teacher)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "its last attempt failed: " in done.stderr
    assert "File too large" in done.stderr
    assert "run the same job again" in done.stderr
    # What was finished before is read as before.
    assert latent_store.open(url)["cityscapes/val"].teacher().rows.tolist() == [0, 1]
    # Of what was begun and not finished, nothing is called damage: no shard is named.
    begun = list(integrity.verify(Location(url)))
    assert any("more was begun than is finished" in str(defect) for defect in begun)
    assert all(defect.shard is None for defect in begun)
    assert encode.main(codec_args(scene_root, url, "val", *teacher)) == 0
    assert list(integrity.verify(Location(url), deep=check_streams)) == []
