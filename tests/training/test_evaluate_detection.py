"""Detectors are measured as maps are: real bits, and the AP of what comes out of them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import latent_store
from latent_store.codec import codec_from_store
from latent_store.errors import DatasetError, MissingComponentError
from latent_store.format.boxes import Boxes
from latent_store.format.layout import coded_size
from latent_store.format.schema import LATENT_STRIDE
from latent_store.store import Split
from tests.conftest import RANKING, TinyStore
from tests.training.devkit import devkit_ap
from tests.training.made_detectors import (
    COLOURS,
    KEEP,
    BoxStore,
    make_detector,
)
from tests.training.real_networks import make_checkpoint
from training import evaluate as command
from training import train as train_command
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline, measure
from training.evaluation.networks_to_evaluate import find_networks
from training.evaluation.points import PIXEL_RAW, read_point
from training.reports import command as evaluation_command
from training.reports import pictures
from training.selection.rates import ImageRate
from training.tasks.annotations import ObjectBoxes
from training.tasks.average_precision import coco_ap, mean_ap, voc_ap
from training.tasks.classes import VOC_CLASSES
from training.tasks.detection import DETECTION
from training.tasks.detections import Detections
from training.tasks.segmentation import SEGMENTATION
from training.trainer.checkpoints import load_network

TEST = 4
_ARRAYS = {"boxes": "boxes_N4", "labels": "labels_N", "scores": "scores_N"}
RATE = ImageRate(hyper_bytes=1, y_bytes=1, mask_bytes=0, flush_bits=0, channels=1, decoded=True)


@pytest.fixture(scope="module")
def box_split(box_store: BoxStore) -> Split:
    return latent_store.open(box_store.url)["voc2007/test"]


@pytest.fixture(scope="module")
def evaluated(
    box_store: BoxStore, detectors: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("evaluation")
    more = ("--permute_latents", "--pictures", "2")
    assert command.main(_args(box_store, output, *detectors.values(), more=more)) == 0
    return output


@pytest.fixture(scope="module")
def points(evaluated: Path) -> dict[str, dict]:
    found = json.loads((evaluated / "results.json").read_text())["points"]
    return {point["label"]: point for point in found}


def _args(
    store: BoxStore | TinyStore, output: Path, *checkpoints: Path, more: tuple[str, ...] = ()
):
    return [
        *("--store", str(store.url), "--dataset", "voc2007", "--split", "test"),
        *("--output", str(output), "--device", "cpu", *more),
        *("--checkpoint", *map(str, checkpoints)),
    ]


def _evaluation(split: Split, **options) -> EvaluationSplit:
    return EvaluationSplit(split, DETECTION, **({"decode": "none"} | options))


def _network(split: Split, path: Path):
    return find_networks([path], split.store)[0]


def _oracle(evaluation: EvaluationSplit, *, difficult: bool = True):
    """Finds every object, and says so with certainty."""

    def detect(self: Pipeline, rows, size):
        truths = [evaluation.read_truth(row) for row in rows]
        return [_as_found(truth, difficult=difficult) for truth in truths], (RATE,) * len(rows)

    return detect


def _blurred(truth: Boxes, seed: int) -> Detections:
    """Every object twice, moved by up to half its size, and sometimes of another class."""
    rng = np.random.default_rng(seed)
    twice_N4 = np.concatenate([truth.boxes_N4] * 2)
    sides_N1 = (twice_N4[:, 2:] - twice_N4[:, :2]).min(axis=1, keepdims=True)
    labels_N = np.concatenate([truth.labels_N] * 2)
    wrong = rng.random(len(labels_N)) < 0.2
    return Detections(
        boxes_N4=twice_N4 + sides_N1 * rng.uniform(-0.3, 0.3, (len(twice_N4), 1)),
        labels_N=np.where(wrong, rng.permutation(labels_N), labels_N),
        scores_N=rng.integers(1, 5, len(labels_N)) / 4,
    )


def _as_found(truth: Boxes, *, difficult: bool) -> Detections:
    kept = np.ones(len(truth), bool) if difficult else ~truth.difficult_N
    return Detections(
        boxes_N4=truth.boxes_N4[kept],
        labels_N=truth.labels_N[kept],
        scores_N=np.ones(int(kept.sum())),
    )


def test_networks_find_what_they_find_in_the_stores_latents(box_split, detectors):
    latents, ranked = box_split.latents(), box_split.ranked(RANKING)
    for name, read in (("none", latents.read), ("static", lambda r: ranked.read(r, KEEP))):
        network = load_network(detectors[name]).network
        evaluation = _evaluation(box_split, decode="all")
        pipeline = Pipeline(evaluation, _network(box_split, detectors[name]))
        for row, (height, width) in enumerate(box_split.sizes(range(TEST)).tolist()):
            size = coded_size(height, width)
            h, w = (n // LATENT_STRIDE for n in size)
            y_hat_BCHW = torch.from_numpy(read([row])[..., :h, :w]).float()
            with torch.no_grad():
                outputs = network(y_hat_BCHW, valid_B2=torch.tensor([[height, width]]))
            (found,), _ = pipeline.outputs([row], size)
            assert len(found) > 10
            for key, values in outputs["detections"][0].items():
                np.testing.assert_array_equal(getattr(found, _ARRAYS[key]), values.numpy())


def test_scores_are_the_devkits_and_cocos_of_what_is_found(box_split, detectors, monkeypatch):
    evaluated = _network(box_split, detectors["none"])
    evaluation = _evaluation(box_split)
    truths = evaluation.truth.read(range(TEST))
    assert any(truth.difficult_N.any() for truth in truths)
    found = [_blurred(truth, row) for row, truth in enumerate(truths)]

    def detect(self: Pipeline, rows, size):
        return [found[row] for row in rows], (RATE,) * len(rows)

    monkeypatch.setattr(Pipeline, "outputs", detect)
    point = measure(evaluation, evaluated, evaluation.rows([evaluated], None))
    for measured, use_07 in ((point.score, False), (point.more_scores["AP50-07"], True)):
        ap_K = [devkit_ap(truths, found, k, use_07_metric=use_07) for k in range(len(VOC_CLASSES))]
        present = [v for v in ap_K if not math.isnan(v)]
        assert measured == pytest.approx(np.mean(present), abs=1e-9)
        assert 0.1 < measured < 0.9
    assert point.more_scores["COCO AP"] == pytest.approx(coco_ap(truths, found), abs=1e-6)
    there = {VOC_CLASSES[k] for b in truths for k in b.labels_N[~b.difficult_N]}
    named = zip(VOC_CLASSES, point.class_scores, strict=True)
    assert {name for name, score in named if score is not None} == there <= set(COLOURS)


def test_rates_are_the_bytes_of_the_stores_strings(points, box_split):
    latents, ranked = box_split.latents(), box_split.ranked(RANKING)
    pixels = int(box_split.sizes(range(TEST)).prod(axis=1).sum())
    hyper = 8 * sum(len(latents.z_string(row)) for row in range(TEST)) / pixels
    whole = 8 * sum(len(latents.y_string(row)) for row in range(TEST)) / pixels
    cut = 8 * sum(len(ranked.scalable_string(row, KEEP)) for row in range(TEST)) / pixels
    for name in (PIXEL_RAW, "pixel", "none"):
        assert points[name]["bpp"] == pytest.approx(hyper + whole)
    assert points["static"]["bpp"] == pytest.approx(hyper + cut)
    assert points["dynamic"]["mask_bpp"] == pytest.approx(8 * 192 / 8 * TEST / pixels)
    assert all(p["decoded"] == TEST for p in points.values())


@pytest.mark.parametrize("difficult", [True, False])
def test_who_finds_everything_that_counts_has_all_scores_whatever_is_difficult(
    box_split, detectors, monkeypatch, difficult
):
    evaluated = _network(box_split, detectors["static"])
    evaluation = _evaluation(box_split, permute=True)
    monkeypatch.setattr(Pipeline, "outputs", _oracle(evaluation, difficult=difficult))
    point = measure(evaluation, evaluated, evaluation.rows([evaluated], None))
    assert (point.score, point.more_scores) == (1, {"AP50-07": 1, "COCO AP": pytest.approx(1)})
    assert point.permuted_score < 0.5
    assert (point.metric, point.constant_class, point.constant_score) == ("AP50", None, None)


def test_batches_make_no_difference(box_split, detectors):
    evaluated = _network(box_split, detectors["dynamic"])
    one, three = (_evaluation(box_split, batch_size=size) for size in (1, 3))
    rows = one.rows([evaluated], None)
    first, second = measure(one, evaluated, rows), measure(three, evaluated, rows)
    assert (first.key, first.bpp) == (second.key, second.bpp)
    assert first.score == pytest.approx(second.score, abs=1e-3)


def test_files_are_complete_and_points_survive_theirs(evaluated, points):
    report = (evaluated / "report.md").read_text()
    assert report.startswith("# Rate and AP50 on voc2007/test")
    assert "| AP50 | 95% | AP50-07 | COCO AP | permuted |" in report
    for part in ("## AP50 by class", "## Differences in AP50", "AP50 is the VOC devkit's average"):
        assert part in report
    assert "mIoU" not in report
    assert "Always predicting" not in report
    strips = sorted(evaluated.glob("pictures/*.png"))
    assert len(strips) == 2
    assert (evaluated / "rate_ap50.png").exists()
    lines = (evaluated / "per_class.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == list(VOC_CLASSES)
    for point in points.values():
        kept = read_point(evaluated / "points", point["key"])
        again = voc_ap([s.part for s in kept.samples], use_07_metric=False)
        assert mean_ap(again) == pytest.approx(point["score"], abs=1e-12)


def test_a_second_call_measures_and_detects_nothing_and_says_the_same(
    box_store, detectors, evaluated, monkeypatch
):
    before = (evaluated / "results.json").read_text()
    monkeypatch.setattr(evaluation_command, "measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(pictures, "Pipeline", lambda *_: pytest.fail("detected again"))
    more = ("--permute_latents", "--pictures", "2")
    assert command.main(_args(box_store, evaluated, *detectors.values(), more=more)) == 0
    assert (evaluated / "results.json").read_text() == before


def test_damaged_kept_detections_are_refused(box_store, detectors, tmp_path, fails):
    args = _args(box_store, tmp_path, detectors["none"], more=("--pictures", "1"))
    assert command.main(args) == 0
    (kept,) = tmp_path.glob("points/*-boxes/*.json")
    kept.write_text(kept.read_text().replace("scores", "marks"))
    assert "holds no detections ('scores'); delete it" in fails(command.main, args)


def test_a_network_of_the_training_command_is_measured(box_store, tmp_path):
    train = [
        *("--store", box_store.url, "--dataset", "voc2007", "--split", "trainval"),
        *("--val_split", "none", "--task", "detection", "--output", tmp_path / "run"),
        *("--selection", "static", "--mask", RANKING, "--keep", KEEP, "--backbone", "resnet18"),
        *("--fpn_width", 16, "--box_head_width", 32, "--anchor_size", 16, "--batch_size", 2),
        *("--teacher", "none", "--lambda_kd", 0, "--init", "scratch"),
        *("--max_steps", 3, "--workers", 0, "--device", "cpu"),
    ]
    assert train_command.main([*map(str, train)]) == 0
    more = ("--pictures", "0")
    assert command.main(_args(box_store, tmp_path, tmp_path / "run/last.pt", more=more)) == 0
    (point,) = json.loads((tmp_path / "results.json").read_text())["points"]
    assert (point["task"], point["metric"], point["num_samples"]) == ("detection", "AP50", TEST)
    assert 0 <= point["score"] <= 1


def test_two_tasks_in_one_table_are_refused(box_store, box_split, detectors, tmp_path, fails):
    maps = make_checkpoint(tmp_path / "maps.pt", codec_from_store(box_split.store), num_classes=21)
    line = fails(command.main, _args(box_store, tmp_path, detectors["none"], maps))
    assert "none.pt is a network for detection, " in line
    assert "maps.pt for segmentation: one table has one score; evaluate them in two calls" in line


def test_a_split_without_boxes_or_labels_says_what_to_run(
    box_split, detectors, tiny_store, tmp_path, fails
):
    codec = codec_from_store(latent_store.open(tiny_store.url))
    args = _args(tiny_store, tmp_path, make_detector(tmp_path / "d.pt", codec))
    line = fails(command.main, [*args, "--dataset", "cityscapes", "--split", "val"])
    assert "run encode-to-store with --voc_task detection" in line
    with pytest.raises(MissingComponentError, match="labels"):
        EvaluationSplit(box_split, SEGMENTATION)


def test_networks_of_other_classes_are_refused(box_store, box_split, tmp_path, fails):
    path = make_detector(tmp_path / "n.pt", codec_from_store(box_split.store), num_classes=22)
    line = fails(command.main, _args(box_store, tmp_path, path))
    assert "n.pt predicts 22 classes, the dataset has 21; evaluate it on the dataset" in line


def test_boxes_of_unknown_classes_are_refused(box_split):
    evaluation = _evaluation(box_split)
    evaluation.annotations = ObjectBoxes(num_classes=2)
    row = next(n for n, b in enumerate(evaluation.truth.read(range(TEST))) if b.labels_N.max() > 1)
    with pytest.raises(DatasetError, match=r"has class \d+, but voc2007 has classes 1 to 1: "):
        evaluation.read_truth(row)


def test_a_split_where_nothing_counts_has_no_ap(box_split, detectors, monkeypatch):
    evaluation = _evaluation(box_split)
    all_difficult = [
        dataclasses.replace(b, difficult_N=np.ones(len(b), bool))
        for b in evaluation.truth.read(range(TEST))
    ]
    evaluated = _network(box_split, detectors["static"])
    monkeypatch.setattr(evaluation, "read_truth", all_difficult.__getitem__)
    monkeypatch.setattr(Pipeline, "outputs", _oracle(evaluation))
    with pytest.raises(DatasetError, match="no object of the 4 images of voc2007/test counts"):
        measure(evaluation, evaluated, np.arange(TEST))
