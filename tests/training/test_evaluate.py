"""The evaluation: real bytes, one confusion matrix, nothing measured twice, clear refusals."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store.codec import codec_from_store, load_codec
from latent_store.errors import DatasetError
from latent_store.format.schema import IGNORE_LABEL
from latent_store.store import Split
from pipelines import encode
from tests.conftest import HEIGHT, RANKING, VAL, WIDTH, TinyStore, encode_args, without_codec
from tests.training.real_networks import KEEP, make_checkpoint, make_checkpoints
from training import evaluate as command
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline, measure, permuted_rows, point_key
from training.evaluation.networks_to_evaluate import distinct_labels, find_networks
from training.evaluation.points import PIXEL_RAW
from training.reports import command as evaluation_command
from training.reports import pictures
from training.tasks.annotations import PixelLabels
from training.tasks.classes import CITYSCAPES_CLASSES
from training.tasks.mean_iou import MeanIou
from training.tasks.pictures import read_labels
from training.tasks.segmentation import SEGMENTATION
from training.trainer.checkpoints import load_network, save_checkpoint, write_payload

CODED = (128, 192)
MASK_BYTES = 192 // 8


@pytest.fixture(scope="module")
def checkpoints(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_checkpoints(tmp_path_factory.mktemp("networks"), tiny_store)


@pytest.fixture(scope="module")
def split(tiny_store: TinyStore) -> Split:
    return latent_store.open(tiny_store.url)["cityscapes/val"]


def _args(store: TinyStore, output: Path, *checkpoints: Path, more: tuple[str, ...] = ()) -> list:
    return [
        *("--store", str(store.url), "--dataset", "cityscapes", "--split", "val"),
        *("--checkpoint", *map(str, checkpoints), "--output", str(output), "--device", "cpu"),
        *more,
    ]


@pytest.fixture(scope="module")
def evaluated(
    tiny_store: TinyStore, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What one call of the command over every kind of network leaves."""
    output = tmp_path_factory.mktemp("evaluation")
    more = ("--permute_latents", "--pictures", "2")
    assert command.main(_args(tiny_store, output, *checkpoints.values(), more=more)) == 0
    return output


@pytest.fixture(scope="module")
def points(evaluated: Path) -> dict[str, dict]:
    found = json.loads((evaluated / "results.json").read_text())["points"]
    return {point["label"]: point for point in found}


def _evaluation(split: Split, **options) -> EvaluationSplit:
    return EvaluationSplit(split, SEGMENTATION, **options)


def _networks(split: Split, *paths: Path):
    return find_networks(paths, split.store)


def _direct_miou(split: Split, logits_of) -> float:
    results = []
    labels = split.labels()
    for row in labels.rows.tolist():
        with torch.inference_mode():
            map_HW = logits_of(row)[0].argmax(0)[:HEIGHT, :WIDTH]
        truth_HW = labels.read([row])[0, :HEIGHT, :WIDTH]
        results.append(MeanIou().compare(truth_HW, map_HW, len(CITYSCAPES_CLASSES)))
    return MeanIou().summary(results, CITYSCAPES_CLASSES)["miou"]


def test_every_kind_of_network_is_a_point_of_one_table(points):
    names = [PIXEL_RAW, "pixel", "none", "dynamic", "static"]
    assert list(points) == names
    assert [points[n]["domain"] for n in names] == ["pixel", "pixel", "latent", "latent", "latent"]
    assert points["static"]["channels_mean"] == KEEP
    assert all(p["num_samples"] == p["decoded"] == VAL for p in points.values())


def test_rates_are_the_bytes_of_the_stores_strings(points, split):
    latents, ranked = split.latents(), split.ranked(RANKING)
    rows = latents.rows.tolist()
    pixels = VAL * HEIGHT * WIDTH
    hyper = 8 * sum(len(latents.z_string(row)) for row in rows) / pixels
    whole = 8 * sum(len(latents.y_string(row)) for row in rows) / pixels
    cut = 8 * sum(len(ranked.scalable_string(row, KEEP)) for row in rows) / pixels
    for name in (PIXEL_RAW, "pixel", "none"):
        assert points[name]["bpp"] == pytest.approx(hyper + whole)
        assert points[name]["mask_bpp"] == 0
    assert points["static"]["bpp"] == pytest.approx(hyper + cut)
    assert points["dynamic"]["hyper_bpp"] == pytest.approx(hyper)
    assert points["dynamic"]["mask_bpp"] == pytest.approx(8 * MASK_BYTES * VAL / pixels)
    assert points["dynamic"]["y_bpp"] < whole
    for point in points.values():
        parts = point["hyper_bpp"] + point["y_bpp"] + point["mask_bpp"]
        assert point["bpp"] == pytest.approx(parts)


def test_miou_is_that_of_the_network_on_the_stores_latents(points, split, checkpoints):
    latents, ranked = split.latents(), split.ranked(RANKING)
    none = load_network(checkpoints["none"]).network
    direct = _direct_miou(
        split, lambda row: none(torch.from_numpy(latents.read([row])).float())["logits"]
    )
    assert points["none"]["score"] == direct
    static = load_network(checkpoints["static"]).network
    direct = _direct_miou(
        split, lambda row: static(torch.from_numpy(ranked.read([row], KEEP)).float())["logits"]
    )
    assert points["static"]["score"] == direct


def test_a_gate_split_off_gives_what_the_whole_network_gives(points, split, checkpoints):
    latents = split.latents()
    dynamic = load_network(checkpoints["dynamic"]).network
    kept = []

    def logits_of(row: int) -> torch.Tensor:
        pooled_BC = torch.from_numpy(latents.column("channel_rms", [row]))
        outputs = dynamic(torch.from_numpy(latents.read([row])).float(), pooled_BC)
        kept.append(int(outputs["gate"].sum()))
        return outputs["logits"]

    assert points["dynamic"]["score"] == _direct_miou(split, logits_of)
    assert points["dynamic"]["channels_mean"] == pytest.approx(np.mean(kept))
    assert 0 < points["dynamic"]["channels_min"] <= points["dynamic"]["channels_max"] < 192


def test_pixel_networks_see_pictures_decoded_whole_and_rounded(points, split, checkpoints):
    latents, codec = split.latents(), codec_from_store(split.store)
    teacher = load_network(checkpoints["teacher"]).network

    def logits_of(row: int) -> torch.Tensor:
        x_hat_BCHW = codec.reconstruct(torch.from_numpy(latents.read([row]))).clamp(0, 1)
        return teacher((x_hat_BCHW * 255).round() / 255)["logits"]

    assert points[PIXEL_RAW]["score"] == pytest.approx(_direct_miou(split, logits_of), abs=1e-3)


def test_constant_baseline_and_psnr_are_the_splits(points, split):
    labels_NHW = split.labels().read(range(VAL))[:, :HEIGHT, :WIDTH]
    counts = np.bincount(labels_NHW[labels_NHW != IGNORE_LABEL], minlength=19)
    expected = counts.max() / counts.sum() / (counts > 0).sum()
    psnr = split.latents().quality(range(VAL))["psnr"]
    for point in points.values():
        assert point["constant_score"] == pytest.approx(expected)
        assert point["constant_class"] == counts.argmax()
        assert point["psnr"] == pytest.approx(np.nanmean(psnr))
        assert point["permuted_score"] is not None


def test_macs_count_what_the_server_computes(points, codec):
    assert list(points["pixel"]["macs_parts"]) == ["g_s", "stem", "tail"]
    assert list(points["static"]["macs_parts"]) == ["transform", "tail"]
    for point in points.values():
        assert point["macs"] == sum(point["macs_parts"].values())
    assert points["static"]["macs"] < points["none"]["macs"]
    # g_s: four transposed convolutions, each over twice the side, and an IGDN behind three of them.
    n, m, cells = codec.spec.hyper_channels, codec.spec.channels, 8 * 12
    layers = [25 * inputs * n + 4 * n * n for inputs in (m, n, n)] + [25 * n * 3]
    g_s = sum(cells * 4**level * macs for level, macs in enumerate(layers))
    assert points["pixel"]["macs_parts"]["g_s"] == g_s
    assert points["none"]["macs_thop"] > points["none"]["macs"]


def test_batches_make_no_difference(split, checkpoints):
    (evaluated,) = _networks(split, checkpoints["static"])
    one, three = _evaluation(split, batch_size=1), _evaluation(split, batch_size=3)
    rows = one.rows([evaluated], None)
    assert [len(b) for b, _ in three.batches(rows)] == [3, 1]
    first, second = measure(one, evaluated, rows), measure(three, evaluated, rows)
    assert first.key == second.key
    assert first.bpp == second.bpp
    assert first.score == pytest.approx(second.score, abs=1e-3)


def test_files_are_complete(evaluated, points):
    report = (evaluated / "report.md").read_text()
    assert all(label in report for label in points)
    assert "From only 4 images such intervals are too narrow." in report
    assert f"| {RANKING} | halves of its samples |" in report
    for point in points.values():
        low, high = point["score_interval"]
        assert 0 <= low <= high <= 1
    strips = sorted(evaluated.glob("pictures/*.png"))
    assert len(strips) == 2
    assert all(f"pictures/{p.name}" in report for p in strips)
    with Image.open(strips[0]) as strip:
        assert strip.width > 4 * 150
    with Image.open(evaluated / "rate_miou.png") as plot:
        plot.load()
    rows = list(csv.reader((evaluated / "per_class.csv").read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == list(CITYSCAPES_CLASSES)
    assert len(rows[0]) == 6


def test_the_page_has_the_results_and_each_pictures_own_rate(evaluated, points, split):
    text = (evaluated / "report.html").read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])
    assert [p["score"] for p in data["points"]] == [p["score"] for p in points.values()]
    for shown, point in zip(data["points"], points.values(), strict=True):
        confusion = np.array(shown["confusion"])
        union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
        present = confusion.sum(1) > 0
        assert point["score"] == pytest.approx((np.diag(confusion) / union.clip(1))[present].mean())
    assert [p["why"] for p in data["pictures"]] == ["sample"] * 2 + ["worst"] * (
        len(data["pictures"]) - 2
    )
    latents, ranked = split.latents(), split.ranked(RANKING)
    for picture in data["pictures"]:
        row = split.row_of(picture["id"])
        prefix = len(latents.z_string(row)) + len(ranked.scalable_string(row, KEEP))
        static = picture["networks"][-1]
        assert (static["bytes"], static["channels"]) == (prefix, KEEP)
        assert static["bpp"] == 8 * prefix / (HEIGHT * WIDTH)
        assert picture["original"] is None
    (ranking,) = data["rankings"]
    bits = latents.column("channel_bits", latents.rows).mean(axis=0)
    assert ranking["bits"] == pytest.approx(bits.tolist())


def test_originals_are_those_of_the_data_root(tiny_store, checkpoints, tmp_path, fails):
    root = ("--max_samples", "1", "--pictures", "1", "--data_root")
    args = _args(tiny_store, tmp_path, checkpoints["none"], more=(*root, str(tiny_store.data_root)))
    assert command.main(args) == 0
    text = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])
    (picture,) = data["pictures"]
    assert picture["images"][picture["original"]].startswith("data:image/")
    elsewhere = _args(tiny_store, tmp_path, checkpoints["none"], more=(*root, str(tmp_path)))
    assert "give the data root that was encoded" in fails(command.main, elsewhere)


def test_a_second_call_measures_nothing_and_says_the_same(
    tiny_store, checkpoints, evaluated, monkeypatch, capsys
):
    before = (evaluated / "results.json").read_text()
    monkeypatch.setattr(evaluation_command, "measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(pictures, "Pipeline", lambda *_: pytest.fail("segmented again"))
    more = ("--permute_latents", "--pictures", "2")
    assert command.main(_args(tiny_store, evaluated, *checkpoints.values(), more=more)) == 0
    assert (evaluated / "results.json").read_text() == before
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:3] == ["network", "codec", "channels"]
    assert "Always predicting" in out


def test_pictures_of_points_that_were_measured_before(tiny_store, checkpoints, tmp_path):
    more = ("--max_samples", "2", "--pictures")
    args = _args(tiny_store, tmp_path, checkpoints["static"], more=more)
    assert command.main([*args, "0"]) == 0
    assert not (tmp_path / "pictures").exists()
    assert command.main([*args, "1"]) == 0
    (kept,) = tmp_path.glob("points/*-maps/000000.png")
    later = read_labels(kept)
    shutil.rmtree(tmp_path / "points")
    assert command.main([*args, "1"]) == 0
    np.testing.assert_array_equal(read_labels(kept), later)


def test_only_what_is_missing_is_measured(tiny_store, checkpoints, tmp_path, monkeypatch):
    measured = []

    def counted(evaluation, evaluated, *rest):
        measured.append(evaluated.label)
        return measure(evaluation, evaluated, *rest)

    monkeypatch.setattr(evaluation_command, "measure", counted)
    more = ("--pictures", "0", "--max_samples", "2")
    assert command.main(_args(tiny_store, tmp_path, checkpoints["static"], more=more)) == 0
    both = (checkpoints["none"], checkpoints["static"])
    assert command.main(_args(tiny_store, tmp_path, *both, more=more)) == 0
    assert measured == ["static", "none"]
    other = (*more, "--decode", "none")
    assert command.main(_args(tiny_store, tmp_path, checkpoints["static"], more=other)) == 0
    assert measured == ["static", "none", "static"]
    found = json.loads((tmp_path / "results.json").read_text())["points"][0]
    assert (found["num_samples"], found["decoded"]) == (2, 0)


def test_keys_follow_what_numbers_depend_on(split, checkpoints, copied_store):
    static, none = _networks(split, checkpoints["static"], checkpoints["none"])
    evaluation = _evaluation(split)
    rows = evaluation.rows([static, none], None)
    key = point_key(evaluation, static, rows)
    assert key == point_key(_evaluation(split, batch_size=2), static, rows)
    assert key != point_key(evaluation, none, rows)
    assert key != point_key(evaluation, static, rows[:2])
    assert key != point_key(_evaluation(split, permute=True), static, rows)
    # The same store elsewhere is the same store.
    copy = latent_store.open(copied_store.url)["cityscapes/val"]
    assert key == point_key(_evaluation(copy), static, rows)


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_permuting_moves_every_sample(count):
    rows = np.arange(100, 100 + count)
    moved = permuted_rows(rows)
    assert sorted(moved) == rows.tolist()
    assert not np.any(moved == rows)
    np.testing.assert_array_equal(moved, permuted_rows(rows))


def test_a_network_that_is_always_right_falls_when_latents_are_permuted(
    split, checkpoints, monkeypatch
):
    (evaluated,) = _networks(split, checkpoints["static"])
    labels, outputs = split.labels(), Pipeline.outputs

    def oracle(self, rows, size):
        truth_BHW = labels.read(rows)[:, :HEIGHT, :WIDTH]
        maps_BHW = torch.from_numpy(np.where(truth_BHW == IGNORE_LABEL, 0, truth_BHW))
        return list(maps_BHW), outputs(self, rows, size)[1]

    monkeypatch.setattr(Pipeline, "outputs", oracle)
    evaluation = _evaluation(split, permute=True)
    point = measure(evaluation, evaluated, evaluation.rows([evaluated], None))
    assert point.score == 1
    assert point.permuted_score < 0.7


def test_one_image_has_no_permutation(split, checkpoints):
    (evaluated,) = _networks(split, checkpoints["static"])
    evaluation = _evaluation(split, permute=True)
    assert measure(evaluation, evaluated, evaluation.rows([evaluated], 1)).permuted_score is None


def test_equal_labels_get_the_names_of_their_files(split, checkpoints, tmp_path):
    codec = codec_from_store(split.store)
    seeds = [make_checkpoint(tmp_path / f"s{s}.pt", codec, seed=s, label="no gate") for s in (0, 1)]
    found = _networks(split, *seeds, checkpoints["none"], seeds[0])
    assert distinct_labels(found) == ["no gate [s0]", "no gate [s1]", "none"]


def test_seeds_of_one_method_keep_its_name(split, tmp_path):
    codec = codec_from_store(split.store)
    paths = []
    for seed in (0, 1, 1):
        folder = tmp_path / f"run{len(paths)}"
        folder.mkdir()
        made = make_checkpoint(folder / "last.pt", codec, seed=len(paths), label="no gate")
        paths.append(_with_meta(made, train={"seed": seed}))
    first, second = _networks(split, *paths[:2])
    assert (first.seed, second.seed) == (0, 1)
    assert distinct_labels([first, second]) == ["no gate", "no gate"]
    both = _networks(split, *paths[1:])
    assert distinct_labels(both) == ["no gate [run1/last]", "no gate [run2/last]"]


def test_teachers_are_given_the_codecs_of_the_networks(copied_store, tmp_path, fails, checkpoints):
    codec = codec_from_store(latent_store.open(copied_store.url))
    state = torch.load(_file(tmp_path / "demo.pt", codec.checkpoint_bytes), weights_only=True)
    state["g_a.6.bias"] = state["g_a.6.bias"] + 0.01
    torch.save(state, tmp_path / "other.pth.tar")
    other = load_codec(checkpoint=tmp_path / "other.pth.tar")
    encoded = without_codec(encode_args(copied_store, "val"))
    assert encode.main([*encoded, "--codec_checkpoint", str(tmp_path / "other.pth.tar")]) == 0
    network = make_checkpoint(tmp_path / "none2.pt", other, label="none")
    more = ("--pictures", "0", "--max_samples", "1")
    three = (checkpoints["teacher"], checkpoints["none"], network)
    assert command.main(_args(copied_store, tmp_path, *three, more=more)) == 0
    found = json.loads((tmp_path / "results.json").read_text())["points"]
    first, second = codec.spec.codec_id, other.spec.codec_id
    expected = [(PIXEL_RAW, first), (PIXEL_RAW, second), ("none", first), ("none", second)]
    assert [(p["label"], p["codec_id"]) for p in found] == expected
    alone = _args(copied_store, tmp_path, checkpoints["teacher"], more=more)
    assert "give --codec with one of" in fails(command.main, alone)
    assert command.main([*alone, "--codec", second]) == 0
    wrong = [*_args(copied_store, tmp_path, network, more=more), "--codec", first]
    assert f"--codec asks for {first}; leave --codec out" in fails(command.main, wrong)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_missing_checkpoint_is_one_line(tiny_store, tmp_path, fails):
    line = fails(command.main, _args(tiny_store, tmp_path, tmp_path / "none.pt"))
    assert line.endswith("none.pt: check the path")


def test_a_missing_store_or_split_is_one_line(tiny_store, tmp_path, fails, checkpoints):
    args = _args(tiny_store, tmp_path, checkpoints["none"])
    nowhere = [str(tmp_path / "no.zarr") if a == str(tiny_store.url) else a for a in args]
    assert "no.zarr" in fails(command.main, nowhere)
    assert "has no split cityscapes/test" in fails(command.main, [*args, "--split", "test"])


def test_a_store_of_another_codec_is_refused(tiny_store, split, tmp_path, fails):
    codec = codec_from_store(split.store)
    path = make_checkpoint(tmp_path / "n.pt", codec)
    stranger = _with_meta(path, codec_id="bmshj2018-hyperprior-00000000")
    line = fails(command.main, _args(tiny_store, tmp_path, stranger))
    assert "was trained on latents of codec bmshj2018-hyperprior-00000000, the store" in line
    assert "add it with encode-to-store --codec_checkpoint" in line
    identity = codec.spec.identity | {"cdf_sha256": "0" * 64}
    stranger = _with_meta(path, codec_id=codec.spec.codec_id, codec_identity=identity)
    line = fails(command.main, _args(tiny_store, tmp_path, stranger))
    assert f"{path} has cdf_sha256 '0000" in line


def _with_meta(path: Path, **changes: object) -> Path:
    payload = torch.load(path, weights_only=True)
    payload["meta"] = payload["meta"] | changes
    write_payload(path, payload)
    return path


def test_a_network_that_diverged_is_one_line(tiny_store, checkpoints, tmp_path, fails):
    payload = torch.load(checkpoints["none"], weights_only=True)
    payload["state"]["tail.layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    write_payload(tmp_path / "diverged.pt", payload)
    line = fails(command.main, _args(tiny_store, tmp_path, tmp_path / "diverged.pt"))
    assert "diverged.pt gives values that are not finite" in line


def test_other_classes_are_refused(tiny_store, split, tmp_path, fails):
    codec = codec_from_store(split.store)
    path = make_checkpoint(tmp_path / "n.pt", codec, num_classes=11)
    line = fails(command.main, _args(tiny_store, tmp_path, path))
    assert "n.pt predicts 11 classes, the dataset has 19; evaluate it on the dataset" in line
    other = load_network(make_checkpoint(tmp_path / "o.pt", codec))
    names = [*other.meta["class_names"][:18], "tram"]
    meta = {**other.meta, "class_names": names}
    save_checkpoint(tmp_path / "o.pt", other.network, meta=meta, codec_bytes=other.codec_bytes)
    line = fails(command.main, _args(tiny_store, tmp_path, tmp_path / "o.pt"))
    assert "o.pt is 'tram', of the dataset it is 'bicycle'; evaluate it on the dataset" in line


def test_labels_of_unknown_classes_are_refused(split, checkpoints):
    (evaluated,) = _networks(split, checkpoints["none"])
    evaluation = _evaluation(split, decode="none")
    evaluation.annotations = PixelLabels(num_classes=3)
    rows = evaluation.rows([evaluated], None)
    with pytest.raises(DatasetError, match=r"contain train id \d+, but cityscapes has 3 classes"):
        measure(evaluation, evaluated, rows)


def test_a_split_without_usable_samples_is_refused(split, checkpoints, monkeypatch):
    (evaluated,) = _networks(split, checkpoints["none"])
    evaluation = _evaluation(split)
    latents = evaluation.latents(evaluated.spec.codec_id)
    monkeypatch.setattr(latents, "rows", np.array([], dtype=int))
    with pytest.raises(DatasetError, match=r"cityscapes/val of .* has no sample with both labels"):
        evaluation.rows([evaluated], None)


def test_labels_that_are_all_ignored_are_refused(split, checkpoints, monkeypatch):
    (evaluated,) = _networks(split, checkpoints["none"])
    evaluation = _evaluation(split, decode="none")
    nothing_HW = np.full((HEIGHT, WIDTH), IGNORE_LABEL, dtype=np.uint8)
    monkeypatch.setattr(evaluation, "read_truth", lambda _: nothing_HW)
    with pytest.raises(DatasetError, match=r"every pixel of the 4 images .* is labelled 255"):
        measure(evaluation, evaluated, evaluation.rows([evaluated], None))


@pytest.mark.parametrize(
    ("flag", "least"), [("--max_samples", 1), ("--batch_size", 1), ("--pictures", 0)]
)
def test_numbers_out_of_range_are_refused(tiny_store, checkpoints, tmp_path, fails, flag, least):
    args = [*_args(tiny_store, tmp_path, checkpoints["none"]), flag, str(least - 1)]
    message = f"{flag} must be {least} or more, got {least - 1}"
    assert message in fails(command.main, args)


def test_a_ranking_without_its_copy_names_the_command(copied_store, checkpoints, tmp_path, fails):
    codec_id = next(iter(latent_store.open(copied_store.url).codecs()))
    shutil.rmtree(copied_store.url / "cityscapes/val/ranked" / codec_id)
    line = fails(command.main, _args(copied_store, tmp_path, checkpoints["static"]))
    assert "run reorder-latents --ranking variance" in line
