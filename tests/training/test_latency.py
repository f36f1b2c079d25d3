"""Both sides timed, stage by stage, beside the paper's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import latent_store
from latent_store.codec import codec_from_store
from tests.conftest import RANKING, TinyStore
from tests.training.real_networks import KEEP, make_checkpoint, make_checkpoints
from training.latency import main
from training.networks.network_config import NetworkConfig
from training.transmission import latency
from training.transmission.camera_server import open_transmission
from training.transmission.latency import Latency, Spread, time_all


@pytest.fixture(scope="module")
def checkpoints(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_checkpoints(tmp_path_factory.mktemp("networks"), tiny_store)


def _args(store: TinyStore, output: Path, *more: object) -> list[str]:
    fixed = ["--store", store.url, "--output", output, "--device", "cpu", "--threads", 1]
    return [str(a) for a in (*fixed, *more)]


def test_every_kind_of_network_is_timed(tiny_store, checkpoints, tmp_path, capsys):
    more = ("--repeats", 3, "--warm_up", 1, "--max_samples", 2, "--checkpoint")
    assert main(_args(tiny_store, tmp_path, *more, *checkpoints.values())) == 0
    found = json.loads((tmp_path / "latency.json").read_text())
    rows = {row["checkpoint"].split("/")[-1]: row for row in found["latencies"]}
    kinds = ["pixel", "pixel", "no gate", "dynamic", f"static, {KEEP} channels"]
    assert [row["kind"] for row in rows.values()] == kinds
    for row in rows.values():
        for name in ("encode", "decode", "total", *row["stages"]):
            spread = row.get(name) or row["stages"][name]
            assert 0 <= spread["p10"] <= spread["median"] <= spread["p90"]
        assert row["encode"]["median"] >= row["stages"]["g_a"]["p10"]
    assert "g_s" in rows["teacher.pt"]["stages"]
    assert "g_s" not in rows["none.pt"]["stages"]
    assert rows["static.pt"]["channels"] == KEEP
    assert rows["none.pt"]["channels"] == 192
    setting = found["setting"]
    assert (setting["threads"], setting["repeats"], setting["pictures"]) == (1, 3, ["150x96"] * 2)
    text = (tmp_path / "latency.md").read_text()
    assert "| 0.060 | 0.195 | 55.2 % |" in text
    assert "(1 CPU threads)" in text
    assert "1 CPU threads" in capsys.readouterr().out


def test_times_are_quantiles_of_sums_of_stages(checkpoints, monkeypatch):
    ends = open_transmission(checkpoints["static"])
    scales = iter([9.0, 1.0, 2.0, 3.0])

    def run_once(ends, image_HWC):
        scale = next(scales)
        camera = {"g_a": 3 * scale, "entropy coding": scale}
        return camera, {"network": 2 * scale}, KEEP

    monkeypatch.setattr(latency, "_run_once", run_once)
    picture_HWC = np.zeros((64, 64, 3), dtype=np.uint8)
    (found,) = time_all([ends], [picture_HWC], repeats=3, warm_up=1)
    assert (found.encode.median, found.decode.median, found.total.median) == (8, 4, 12)
    assert (found.total.p10, found.total.p90) == pytest.approx((7.2, 16.8))
    assert found.stages["g_a"].median == 6


def test_the_papers_rows_are_known_by_configuration():
    static = {"selection": "static", "channels": tuple(range(64))}
    names = [
        latency.kind_of(NetworkConfig(**config))
        for config in ({"domain": "pixel"}, {}, {"selection": "dynamic"}, static)
    ]
    assert names == ["pixel", "no gate", "dynamic", "static, 64 channels"]
    assert set(names) < set(latency.PAPER)
    shares = {k: sum(v) / sum(latency.PAPER["pixel"]) for k, v in latency.PAPER.items()}
    assert 1 - shares["static, 16 channels"] == pytest.approx(0.448, abs=1e-3)


def test_the_papers_numbers_and_pixels_are_of_the_same_task():
    def row(task: str, kind: str, total: float) -> Latency:
        spread = Spread(median=total, p10=total, p90=total)
        times = {"encode": spread, "decode": spread, "total": spread, "stages": {}}
        return Latency(kind=kind, task=task, checkpoint="", codec_id="", channels=1, **times)

    found = [
        row("detection", "pixel", 40.0),
        row("detection", "dynamic", 10.0),
        row("segmentation", "pixel", 20.0),
        row("segmentation", "dynamic", 10.0),
    ]
    lines = [line.split() for line in latency.table(found, markdown=False).splitlines()[-4:]]
    assert [" ".join(line[-5:]) for line in lines[:2]] == ["100.0 % - - -", "25.0 % - - -"]
    assert [" ".join(line[-6:]) for line in lines[2:]] == [
        "100.0 % 0.142 0.320 100.0 %",
        "50.0 % 0.090 0.217 66.5 %",
    ]


def test_bad_usage_is_one_line(tiny_store, checkpoints, tmp_path, fails):
    args = _args(tiny_store, tmp_path, "--checkpoint", checkpoints["none"])
    assert "--repeats must be 1 or more, got 0" in fails(main, [*args, "--repeats", "0"])
    assert "--warm_up must be 0 or more, got -1" in fails(main, [*args, "--warm_up", "-1"])
    assert "has no split cityscapes/test" in fails(main, [*args, "--split", "test"])
    assert "no.png" in fails(main, [*args, "--image", str(tmp_path / "no.png")])


def test_given_pictures_are_timed(tiny_store, checkpoints, tmp_path):
    image = next((tiny_store.data_root / "leftImg8bit" / "val").glob("*/*.png"))
    more = ("--repeats", 1, "--warm_up", 0, "--image", image, "--checkpoint", checkpoints["static"])
    assert main(_args(tiny_store, tmp_path, *more)) == 0
    found = json.loads((tmp_path / "latency.json").read_text())
    assert found["setting"]["pictures"] == ["150x96"]
    assert "| - | 0.060 |" in (tmp_path / "latency.md").read_text()  # no pixel domain to divide by


def test_a_network_for_any_n_is_timed_at_each_cut(tiny_store, tmp_path):
    store = latent_store.open(tiny_store.url)
    codec = codec_from_store(store)
    channels = store.ranking(codec.spec.codec_id, RANKING).channels(32)
    shape = {"selection": "any", "channels": channels, "cuts": (16, 32)}
    path = make_checkpoint(tmp_path / "any.pt", codec, **shape)
    assert main(_args(tiny_store, tmp_path, "--repeats", 1, "--checkpoint", path)) == 0
    found = json.loads((tmp_path / "latency.json").read_text())["latencies"]
    assert [row["kind"] for row in found] == ["any, 16 channels", "any, 32 channels"]
    assert [row["channels"] for row in found] == [16, 32]


def test_a_split_without_latents_says_so(tiny_store, checkpoints, tmp_path, fails, monkeypatch):
    split = type(latent_store.open(tiny_store.url)["cityscapes/val"])
    monkeypatch.setattr(split, "common_rows", lambda *_: np.array([], dtype=int))
    line = fails(main, _args(tiny_store, tmp_path, "--checkpoint", checkpoints["none"]))
    assert "has no latents to decode pictures from; encode some, or give --image" in line
