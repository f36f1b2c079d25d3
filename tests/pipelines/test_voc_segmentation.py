"""The segmentation chain on VOC's layout: mixed sizes in, mIoU at the original size out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import latent_store
from pipelines import encode, train_teacher
from tests.conftest import CODEC
from tests.pipelines.made_voc import SIZES, made_mask, write_voc
from training import evaluate, train
from training.tasks.classes import VOC_CLASSES
from training.tasks.pictures import read_labels
from training.trainer.checkpoints import load_network

NAMES = ("000001", "000002", "000003")
"""Coded at 128x192, 128x64 and 64x128."""
SMALL = "--batch_size 2 --crop 128 --max_steps 3 --workers 0 --no-tensorboard --device cpu"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher, store, network without a gate and evaluation, by the commands."""
    out = tmp_path_factory.mktemp("chain")
    for split in ("train", "val"):
        write_voc(out / "data", segmented=NAMES, split=split)
    data = ("--dataset", "voc", "--voc_task", "segmentation", "--data_root", str(out / "data"))
    shape = ("--backbone", "resnet18", "--aspp_width", "8", "--output", str(out / "teacher"))
    assert train_teacher.main([*data, *shape, *SMALL.split(), "--pretrained", "none"]) == 0
    url, teacher = str(out / "voc.zarr"), str(out / "teacher/last.pt")
    for split in ("train", "val"):
        store = ("--split", split, "--store", url, *CODEC, "--teacher_checkpoint", teacher)
        assert encode.main([*data, *store, "--threads", "1", "--psnr", "none"]) == 0
    where = ("--store", url, "--dataset", "voc2007")
    student = ("--selection", "none", "--output", str(out / "student"))
    assert train.main([*where, *student, *SMALL.split(), "--transform_init", "fresh"]) == 0
    shown = ("--split", "val", "--pictures", "3", "--decode", "none", "--device", "cpu")
    checkpoints = ("--checkpoint", teacher, str(out / "student/last.pt"))
    assert evaluate.main([*where, *shown, *checkpoints, "--output", str(out / "evaluation")]) == 0
    return out


def test_teacher_and_student_know_the_stores_classes(chain: Path) -> None:
    for name in ("teacher", "student"):
        loaded = load_network(chain / name / "last.pt")
        assert loaded.config.num_classes == 21
        assert loaded.meta["class_names"] == list(VOC_CLASSES)
        assert loaded.meta["dataset"] == "voc2007"


def test_the_default_canvas_holds_every_size(chain: Path) -> None:
    split = latent_store.open(chain / "voc.zarr")["voc2007/train"]
    assert split.plan.canvas == (512, 512)
    rows = [split.row_of(name) for name in NAMES]
    assert split.sizes(rows).tolist() == [list(SIZES[name]) for name in NAMES]
    assert split.coded_sizes(rows).tolist() == [[128, 192], [128, 64], [64, 128]]


def test_iou_is_that_of_maps_at_the_original_size(chain: Path) -> None:
    split = latent_store.open(chain / "voc.zarr")["voc2007/val"]
    with (chain / "evaluation/per_class.csv").open() as file:
        header, *lines = csv.reader(file)
    assert [line[0] for line in lines] == list(VOC_CLASSES)
    told = sorted(tuple(line[k] for line in lines) for k in range(1, len(header)))
    counted = []
    for folder in (chain / "evaluation/points").glob("*-maps"):
        counts_KK = np.zeros((256, 256), np.int64)
        for row, sample_id in zip(split.labels().rows.tolist(), NAMES, strict=True):
            map_HW = read_labels(folder / f"{row:06d}.png")
            mask_HW = made_mask(int(sample_id) - 1, SIZES[sample_id])
            assert map_HW.shape == SIZES[sample_id]
            np.add.at(counts_KK, (mask_HW, map_HW), 1)
        counts_KK = counts_KK[: len(VOC_CLASSES), : len(VOC_CLASSES)]
        hits_K, truths_K = counts_KK.diagonal(), counts_KK.sum(1)
        unions_K = truths_K + counts_KK.sum(0) - hits_K
        pairs = zip(hits_K, unions_K, truths_K, strict=True)
        counted.append(tuple(f"{h / u:.6f}" if t else "" for h, u, t in pairs))
    assert len(counted) == 2
    assert sorted(counted) == told
