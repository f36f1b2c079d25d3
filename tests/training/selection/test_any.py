"""One network for any N: what comes in says the cut, and each cut has its own statistics."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_store import cli
from latent_store.codec import Codec, cut_stream, read_stream_file
from latent_store.errors import LatentStoreError
from latent_store.store import Split
from tests.conftest import HEIGHT, RANKING, WIDTH, TinyStore
from tests.training.made_detectors import make_detector
from tests.training.real_networks import make_checkpoint
from training import detect, evaluate, segment, train
from training.data.sampling import draw_cut
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork
from training.selection.cut_norm import STATISTICS, CutBatchNorm2d, share_statistics
from training.tasks.objective import Objective
from training.tasks.pictures import read_labels
from training.tasks.registry import build_network
from training.tasks.segmentation import SEGMENTATION, SegmentationLoss
from training.trainer.checkpoints import LoadedNetwork, load_network, save_checkpoint
from training.trainer.initialise import (
    start_from_network,
    start_from_pretrained,
    start_from_teacher,
)
from training.trainer.model_card import model_card
from training.trainer.validation import Validator
from training.transmission.camera_server import open_transmission

CHANNELS, CUTS = (5, 3, 9, 0, 7, 11), (2, 4, 6)
STORE_CUTS = (16, 32, 64)


def make_network(seed: int = 0, **config) -> LatentNetwork:
    torch.manual_seed(seed)
    values = {"backbone": "resnet18", "aspp_width": 8, "latent_channels": 12}
    chosen = {"selection": "any", "channels": CHANNELS, "cuts": CUTS}
    return build_network(NetworkConfig(**(values | chosen | config)))


def plain(**config) -> LatentNetwork:
    return make_network(**({"selection": "static", "cuts": None} | config))


def latents(channels: int = 6, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, 4, 4, generator=generator).mul(3).round()


def trained(seed: int = 0) -> LatentNetwork:
    """A network whose cuts have seen batches, some more than others."""
    network = make_network(seed)
    network.set_latent_statistics(torch.rand(6))
    for keep in (2, 4, 4, 6, 6, 6):
        network(latents()[:, :keep])
    return network.eval()


def saved(tmp_path: Path, network: torch.nn.Module, kind: str = "network") -> LoadedNetwork:
    save_checkpoint(tmp_path / f"{kind}.pt", network, meta={"kind": kind})
    return load_network(tmp_path / f"{kind}.pt")


def norms(network: LatentNetwork) -> list[CutBatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, CutBatchNorm2d)]


@pytest.mark.parametrize("cut", range(len(CUTS)))
@torch.no_grad()
def test_n_channels_are_those_channels_with_the_rest_zero(cut: int) -> None:
    network, reference = trained(), plain(seed=1).eval()
    state = {
        name: value[cut] if name.endswith(STATISTICS) else value
        for name, value in network.state_dict().items()
    }
    reference.load_state_dict(state)  # an ordinary network of all six channels
    whole_BCHW = latents()
    whole_BCHW[:, CUTS[cut] :] = 0
    outputs = network(latents()[:, : CUTS[cut]])
    torch.testing.assert_close(outputs["logits"], reference(whole_BCHW)["logits"])
    assert outputs["logits"].shape == (2, 19, 64, 64)


def test_training_moves_the_statistics_of_its_own_cut_only() -> None:
    network = trained().train()
    assert norms(network)[0].num_batches_tracked.tolist() == [1, 2, 3]
    before = [norm.running_mean.clone() for norm in norms(network)]
    network(latents()[:, :4])
    for norm, mean in zip(norms(network), before, strict=True):
        assert not torch.equal(norm.running_mean[1], mean[1])
        assert torch.equal(norm.running_mean[[0, 2]], mean[[0, 2]])


@torch.no_grad()
def test_statistics_differ_by_cut_and_evaluation_uses_the_cuts_own() -> None:
    network = trained()
    for norm in norms(network):
        for name in ("running_mean", "running_var"):
            first, second, third = getattr(norm, name)
            assert not torch.equal(first, second)
            assert not torch.equal(second, third)
    before = [network(latents()[:, :keep])["logits"] for keep in CUTS]
    for norm in norms(network):
        norm.running_mean[1] += 0.5
    after = [network(latents()[:, :keep])["logits"] for keep in CUTS]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_one_set_of_statistics_is_that_of_all_cuts_batches_together() -> None:
    network = make_network()
    (norm, *_) = norms(network)
    batches = [torch.randn(4, norm.num_features, 5, 5) * (1 + n) + n for n in range(len(CUTS))]
    norm.train()
    norm.momentum = 1.0
    for cut, batch_BCHW in enumerate(batches):
        norm.switch.index = cut
        norm(batch_BCHW)
    share_statistics(network)
    together_BCHW = torch.cat(batches)
    for cut in range(len(CUTS)):
        torch.testing.assert_close(norm.running_mean[cut], together_BCHW.mean((0, 2, 3)))
        var_C = together_BCHW.var((0, 2, 3))
        torch.testing.assert_close(norm.running_var[cut], var_C, rtol=0.02, atol=0.0)


def test_every_batch_norm_is_kept_per_cut_and_shares_its_weights() -> None:
    network = make_network(auxiliary_head=True)
    of_plain = [m for m in plain(auxiliary_head=True).modules() if type(m) is torch.nn.BatchNorm2d]
    assert not [m for m in network.modules() if type(m) is torch.nn.BatchNorm2d]
    assert len(norms(network)) == len(of_plain)
    assert all(norm.weight.shape == (norm.num_features,) for norm in norms(network))


def test_a_checkpoint_holds_every_cut(tmp_path: Path) -> None:
    network = trained()
    loaded = saved(tmp_path, network)
    assert loaded.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name
    for keep in CUTS:
        expected = network(latents()[:, :keep])["logits"]
        assert torch.equal(loaded.network(latents()[:, :keep])["logits"], expected)
    meta = loaded.meta | {"ranking_id": "gate"}
    card = model_card(network.config, meta, {"miou": 0.5, "miou_at/2": 0.4})
    assert "2 or 4 or 6 ranked channels of 12" in card
    assert "| 2 | 0.4000 |" in card


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes 2 or 4 or 6 channels \(any selection\), got 3"):
        make_network()(latents(3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cuts": None}, "selection any names its cuts; got selection 'any' with cuts None"),
        (
            {"selection": "static"},
            "selection static names no cuts; got selection 'static' with cuts",
        ),
        ({"channels": None}, "names its channels; got selection 'any' with channels None"),
        ({"cuts": (4, 2, 6)}, r"cuts must rise .* all 6 channels of the network, got \[4, 2, 6\]"),
        ({"cuts": (2, 4)}, r"to all 6 channels of the network, got \[2, 4\]"),
        ({"cuts": ()}, r"got \[\]"),
    ],
)
def test_contradictory_configs_are_refused(changed, message) -> None:
    with pytest.raises(LatentStoreError, match=message):
        make_network(**changed)


def test_the_drawn_cut_depends_on_seed_epoch_and_row_only() -> None:
    drawn = [draw_cut(3, 2, [row, 99], CUTS) for row in range(3000)]
    assert drawn == [draw_cut(3, 2, [row, 7, 8], CUTS) for row in range(3000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    assert set(drawn) == set(CUTS)
    for other in ((4, 2), (3, 1)):
        assert drawn != [draw_cut(*other, [row], CUTS) for row in range(3000)]


def make_batch(row: int) -> dict:
    return {
        "y_hat_BCHW": latents(),
        "labels_BHW": torch.randint(19, (2, 64, 64)),
        "rows_B": torch.tensor([row, row + 1]),
        "valid_B2": torch.tensor([[64, 64]] * 2),
        "batch_rows": (row, row + 1),
    }


def test_a_batch_is_trained_on_the_n_that_it_draws() -> None:
    network = make_network()
    task = Objective(SEGMENTATION, network, SegmentationLoss(lambda_kd=0), seed=5)
    met = set()
    for row in range(12):
        network.zero_grad()
        batch = make_batch(row)
        parts = task(batch, task.count(batch), 1)
        parts["loss"].backward()
        keep = draw_cut(5, 1, [row], CUTS)
        assert parts["kept"].tolist() == [keep, keep]
        touched_C = network.transform.up1.weight.grad.flatten(1).abs().sum(1) > 0
        assert touched_C.tolist() == [channel < keep for channel in range(6)]
        met.add(keep)
    assert met == set(CUTS)


def test_validation_measures_every_cut() -> None:
    batch = make_batch(0)
    names = [str(n) for n in range(19)]
    scores = Validator(SEGMENTATION, [batch], names)(trained(), torch.device("cpu")).scores
    at_cuts = [scores[f"miou_at/{keep}"] for keep in CUTS]
    assert scores["miou"] == pytest.approx(np.mean(at_cuts))
    assert "iou/3" in scores
    assert len(set(at_cuts)) > 1


def test_a_teachers_and_torchvisions_statistics_start_every_cut(tmp_path: Path) -> None:
    teacher = saved(tmp_path, plain(domain="pixel", selection="none", channels=None), "teacher")
    teacher.network.tail.layer1[0].bn1.running_mean.fill_(3.0)
    network = make_network(seed=2)
    start_from_teacher(network, teacher)
    assert network.tail.layer1[0].bn1.running_mean.eq(3).all()
    weight = teacher.network.tail.layer2[0].bn1.weight
    assert torch.equal(network.tail.layer2[0].bn1.weight, weight)
    state = {n.removeprefix("tail."): v for n, v in teacher.network.state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    pretrained = make_network(seed=3)
    start_from_pretrained(pretrained, str(tmp_path / "resnet18.pth"))
    assert pretrained.tail.layer1[0].bn1.running_mean.eq(3).all()


def test_networks_with_and_without_cuts_start_from_each_other(tmp_path: Path) -> None:
    source = saved(tmp_path, trained())
    bn = source.network.tail.layer1[0].bn1
    static = plain(seed=4, channels=CHANNELS[:4]).eval()
    assert start_from_network(static, source) == []
    assert torch.equal(static.tail.layer1[0].bn1.running_mean, bn.running_mean[1])
    torch.testing.assert_close(
        static(latents()[:, :4])["logits"], source.network(latents()[:, :4])["logits"]
    )
    fewer = make_network(seed=5, channels=CHANNELS[:4], cuts=(2, 3, 4)).eval()
    assert start_from_network(fewer, source) == []
    # It has statistics at 2 and 4; at 3 those of all channels start.
    assert torch.equal(fewer.tail.layer1[0].bn1.running_mean, bn.running_mean[[0, 2, 1]])
    spread = make_network(seed=6, channels=CHANNELS[:4], cuts=(1, 4))
    assert start_from_network(spread, saved(tmp_path, static)) == []
    assert torch.equal(spread.tail.layer1[0].bn1.running_mean, bn.running_mean[[1, 1]])


# -- the commands, on a real store ---------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on the cuts 16, 32 and 64."""
    output = tmp_path_factory.mktemp("runs") / "any"
    assert train.main(arguments(tiny_store, output, "--cuts", 64, 16, 32, "--epochs", 2)) == 0
    return output


def arguments(store: TinyStore, output: Path, *more: object) -> list[str]:
    fixed = ["--store", store.url, "--output", output, "--selection", "any", "--mask", RANKING]
    small = "--transform_init fresh --init scratch --aspp_width 8 --batch_size 2 --crop 32"
    small += " --workers 0 --no-tensorboard"
    return [*map(str, fixed), "--backbone", "mobilenet_v2", *small.split(), *map(str, more)]


def test_the_command_trains_one_network_for_every_cut(run: Path, split: Split, codec) -> None:
    loaded = load_network(run / "last.pt")
    ranking = split.store.ranking(codec.spec.codec_id, RANKING)
    assert loaded.config.cuts == STORE_CUTS
    assert loaded.config.channels == ranking.channels(64)
    assert loaded.meta["label"] == f"any ({RANKING})"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    epochs = [record for record in log if record["kind"] == "epoch"]
    assert all(record["kept_min"] in STORE_CUTS for record in epochs)
    scores = next(record for record in log if record["kind"] == "validation")
    assert {f"miou_at/{n}" for n in STORE_CUTS} <= scores.keys()
    norms = (m for m in loaded.network.tail.modules() if isinstance(m, torch.nn.BatchNorm2d))
    tracked = next(norms).num_batches_tracked
    assert tracked.tolist() == [epochs[-1]["step"]] * len(STORE_CUTS)  # those of the end


@pytest.fixture(scope="module")
def evaluated(
    tiny_store: TinyStore, run: Path, split: Split, codec: Codec, tmp_path_factory
) -> Path:
    """What the evaluation leaves of the run, and of a static network at each of its cuts."""
    folder = tmp_path_factory.mktemp("evaluation")
    ranking = split.store.ranking(codec.spec.codec_id, RANKING)
    statics = [
        make_checkpoint(
            folder / f"static-{n}.pt",
            codec,
            backbone="mobilenet_v2",
            selection="static",
            channels=c,
        )
        for n, c in ((n, ranking.channels(n)) for n in STORE_CUTS)
    ]
    flags = ["--store", tiny_store.url, "--output", folder, "--split", "val", "--pictures", 4]
    flags += ["--dataset", "cityscapes", "--checkpoint", run / "last.pt", *statics]
    assert evaluate.main([str(word) for word in flags]) == 0
    return folder


@pytest.fixture(scope="module")
def points(evaluated: Path) -> list[dict]:
    return json.loads((evaluated / "results.json").read_text())["points"]


def test_evaluation_gives_a_point_at_every_cut_with_statics_bytes(
    points: list[dict], evaluated: Path, split: Split, codec: Codec
) -> None:
    ranking = split.store.ranking(codec.spec.codec_id, RANKING)
    assert [p["label"] for p in points[:3]] == [f"any-{n} ({RANKING})" for n in STORE_CUTS]
    assert [p["keep"] for p in points] == [*STORE_CUTS, *STORE_CUTS]
    rates = [p["bpp"] for p in points]
    assert rates[0] < rates[1] < rates[2]
    assert rates[:3] == rates[3:]
    assert [p["tied"] for p in points[:3]] == [ranking.tied_at_cut[n] for n in STORE_CUTS]
    assert len({p["key"] for p in points}) == 6
    assert {p["selection"] for p in points[:3]} == {"any"}
    assert points[0]["macs"] == points[2]["macs"] == points[5]["macs"]
    assert all(p["decoded"] == p["num_samples"] for p in points)
    assert f"any-16 ({RANKING})" in (evaluated / "report.md").read_text()


def test_evaluated_maps_are_those_of_the_network(points, evaluated, run, split) -> None:
    network, ranked = load_network(run / "last.pt").network, split.ranked(RANKING)
    for point in points[:3]:
        y_hat_BCHW = torch.from_numpy(ranked.read([1], point["keep"])).float()
        with torch.inference_mode():
            expected_HW = network(y_hat_BCHW)["logits"][0].argmax(0)[:HEIGHT, :WIDTH]
        map_HW = read_labels(evaluated / f"points/{point['key']}-maps/000001.png")
        np.testing.assert_array_equal(map_HW, expected_HW.numpy())


@pytest.fixture(scope="module")
def picture(tiny_store: TinyStore) -> Path:
    return sorted((tiny_store.data_root / "leftImg8bit" / "val").glob("*/*.png"))[0]


def segmented(run: Path, output: Path, *more: object) -> np.ndarray:
    flags = ["--checkpoint", run / "last.pt", "--output", output, "--device", "cpu", *more]
    assert segment.main([str(word) for word in flags]) == 0
    return read_labels(next(output.glob("*_labelTrainIds.png")))


def test_a_camera_cuts_the_stream_and_the_server_takes_what_came(
    run: Path, picture: Path, split: Split, tmp_path: Path
) -> None:
    whole_HW = segmented(run, tmp_path / "whole", "--image", picture)
    path = tmp_path / "whole" / f"{picture.stem}.stream"
    stream = read_stream_file(path)
    assert stream.cuts == STORE_CUTS
    ranked = split.ranked(RANKING)
    for keep in STORE_CUTS:
        sent_HW = segmented(run, tmp_path / f"own-{keep}", "--image", picture, "--keep", keep)
        cut = tmp_path / f"{keep}.stream"
        cut.write_bytes(cut_stream(stream, keep).to_bytes())
        cut_HW = segmented(run, tmp_path / f"cut-{keep}", "--stream", cut)
        used_HW = segmented(run, tmp_path / f"used-{keep}", "--stream", path, "--keep", keep)
        np.testing.assert_array_equal(sent_HW, cut_HW)
        np.testing.assert_array_equal(sent_HW, used_HW)
        own = read_stream_file(tmp_path / f"own-{keep}" / f"{picture.stem}.stream")
        assert own.channels == stream.channels[:keep]
        assert 0 <= stream.cut_bytes[stream.cuts.index(keep)] - len(own.y) <= 4
        # The camera's prefix is the store's: the order behind the cut may move its end by a word.
        assert abs(len(ranked.scalable_string(0, keep)) - len(own.y)) <= 4
    np.testing.assert_array_equal(whole_HW, sent_HW)


def test_a_static_networks_stream_serves_a_network_for_any_n(
    run: Path, picture: Path, codec: Codec, split: Split, tmp_path: Path, fails
) -> None:
    for keep in (16, 20):
        channels = split.store.ranking(codec.spec.codec_id, RANKING).channels(keep)
        static = make_checkpoint(tmp_path / "s.pt", codec, selection="static", channels=channels)
        flags = ("--checkpoint", static, "--image", picture, "--encode_only", "--output", tmp_path)
        assert segment.main([str(word) for word in flags]) == 0
        stream = tmp_path / f"{picture.stem}.stream"
        if keep == 16:
            own_HW = segmented(run, tmp_path / "own", "--image", picture, "--keep", 16)
            received_HW = segmented(run, tmp_path / "received", "--stream", stream)
            np.testing.assert_array_equal(received_HW, own_HW)
    flags = ("--checkpoint", run / "last.pt", "--stream", stream, "--output", tmp_path)
    line = fails(segment.main, [str(word) for word in flags])
    assert "selection any, cuts 16, 32, 64) cannot use this stream, which carries 20" in line


def test_a_decoder_that_is_sure_reads_no_further_and_only_what_was_sent_counts(
    tiny_store: TinyStore, run: Path, split: Split, tmp_path: Path
) -> None:
    val = split.store["cityscapes/val"]
    network, ranked = load_network(run / "last.pt").network, val.ranked(RANKING)
    y_hat_BCHW = torch.from_numpy(ranked.read(ranked.rows, 16)).float()
    with torch.inference_mode():
        outputs = network(y_hat_BCHW)
    sure = SEGMENTATION.confidences(outputs, [(HEIGHT, WIDTH)] * len(y_hat_BCHW))
    top_HW = outputs["logits"][0, :, :HEIGHT, :WIDTH].softmax(0).amax(0)
    assert sure[0] == pytest.approx(float(top_HW.mean()))
    middle = float(np.median(sure))
    flags = ["--store", tiny_store.url, "--output", tmp_path, "--split", "val", "--pictures", 0]
    flags += ["--dataset", "cityscapes", "--checkpoint", run / "last.pt"]
    flags += ["--stop_confidence", 0, middle, 1]
    assert evaluate.main([str(word) for word in flags]) == 0
    found = {p["label"]: p for p in json.loads((tmp_path / "results.json").read_text())["points"]}
    measured = ("bpp", "score", "channels_max", "decoded")
    for stop, keep in (("0", 16), ("1", 64)):
        fixed, stopped = (found[f"any-{end} ({RANKING})"] for end in (keep, f"stop-{stop}"))
        assert [fixed[n] for n in measured] == [stopped[n] for n in measured]
        assert (stopped["keep"], stopped["stop"]) == (None, float(stop))
    between = found[f"any-stop-{middle:g} ({RANKING})"]
    assert between["channels_min"] == 16 < between["channels_max"]
    assert (
        found[f"any-16 ({RANKING})"]["bpp"] < between["bpp"] < found[f"any-64 ({RANKING})"]["bpp"]
    )


def test_a_server_that_is_sure_uses_the_beginning_of_a_stream(
    run: Path, picture: Path, codec: Codec, tmp_path: Path, fails
) -> None:
    whole_HW = segmented(run, tmp_path / "whole", "--image", picture)
    path = tmp_path / "whole" / f"{picture.stem}.stream"
    stream = read_stream_file(path)
    told = {}
    for confidence in (0, 1):
        words = ("--stream", path, "--stop_confidence", confidence, "--json", tmp_path / "told")
        map_HW = segmented(run, tmp_path / str(confidence), *words)
        (told[confidence],) = json.loads((tmp_path / "told").read_text())["pictures"]
        first_HW = segmented(run, tmp_path / "first", "--stream", path, "--keep", 16)
        np.testing.assert_array_equal(map_HW, whole_HW if confidence else first_HW)
    assert (told[0]["channels"], told[1]["channels"]) == (16, 64)
    assert told[0]["bytes"]["y"] == stream.cut_bytes[0] < told[1]["bytes"]["y"]
    none = make_checkpoint(tmp_path / "none.pt", codec)
    flags = ("--checkpoint", none, "--image", picture, "--output", tmp_path, "--stop_confidence", 0)
    line = fails(segment.main, [str(word) for word in flags])
    assert "--stop_confidence goes with a network for any N, and" in line


STOPS = {
    "no cuts": (segment, "none", ["--image"], "for any N, and"),
    "evaluated without cuts": (evaluate, "none", None, "for any N, and"),
    "boxes": (detect, "boxes", ["--image"], "which networks for detection do not say"),
    "boxes evaluated": (evaluate, "boxes", None, "which networks for detection do not say"),
    "a stream of one cut": (segment, "any", ["--keep", "16", "--image"], "with --image and --keep"),
    "a camera alone": (segment, "any", ["--encode_only", "--image"], "--image and --encode_only"),
}


@pytest.mark.parametrize("case", STOPS)
def test_nobody_stops_where_none_can_and_nothing_is_done(
    tiny_store: TinyStore, run: Path, picture: Path, codec: Codec, tmp_path: Path, fails, case: str
) -> None:
    command, kind, more, told = STOPS[case]
    path = run / "last.pt"
    if kind == "none":
        path = make_checkpoint(tmp_path / "none.pt", codec)
    elif kind == "boxes":
        shape = {"selection": "any", "channels": tuple(range(16)), "cuts": (8, 16)}
        path = make_detector(tmp_path / "boxes.pt", codec, **shape)
    flags = ["--checkpoint", path, "--output", tmp_path / "out", "--stop_confidence", 0.5]
    flags += ["--store", tiny_store.url, "--dataset", "cityscapes"] if more is None else more
    flags += [] if more is None else [picture]
    assert told in fails(command.main, [str(word) for word in flags])
    assert not (tmp_path / "out").exists()


def test_an_n_that_is_no_cut_is_refused(run: Path, picture: Path, codec, tmp_path, fails) -> None:
    fixed = ["--image", str(picture), "--output", str(tmp_path), "--keep", "20"]
    line = fails(segment.main, ["--checkpoint", str(run / "last.pt"), *fixed])
    assert "--keep 20 goes with a network for any N that has this cut, and" in line
    none = make_checkpoint(tmp_path / "none.pt", codec)
    assert "selection none; leave --keep out" in fails(
        segment.main, ["--checkpoint", str(none), *fixed]
    )


def test_the_cuts_default_to_the_rankings(tiny_store: TinyStore, tmp_path: Path, split) -> None:
    more = ("--max_steps", 1, "--val_split", "none")
    assert train.main(arguments(tiny_store, tmp_path / "run", *more)) == 0
    cuts = load_network(tmp_path / "run/last.pt").config.cuts
    assert cuts == split.ranked(RANKING).cuts == (*STORE_CUTS, 192)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cuts", "16", "20"], "--cuts 20 is no cut of ranking variance, whose streams can be"),
        (
            ["--keep", "16"],
            "any goes with --mask RANKING, other selections with neither",
        ),
        (["--selection", "none"], "other selections with neither; got --selection none"),
        (
            ["--selection", "static", "--keep", "16", "--cuts", "16"],
            "--cuts goes with --selection any, got --selection static",
        ),
    ],
)
def test_flags_that_contradict_each_other(tiny_store, tmp_path, fails, more, message) -> None:
    line = fails(train.main, arguments(tiny_store, tmp_path / "run", *more))
    assert message in line


@pytest.mark.slow
def test_a_compiled_network_switches_its_statistics() -> None:
    network = make_network()
    compiled = torch.compile(network, backend="eager")
    for keep in (2, 4, 6, 2):
        compiled(latents()[:, :keep])
    assert norms(network)[0].num_batches_tracked.tolist() == [2, 1, 1]


def test_a_server_that_is_never_sure_reads_its_own_cuts_and_no_further(
    tiny_store: TinyStore, codec: Codec, split: Split, tmp_path: Path
) -> None:
    names = ["--split", "cityscapes/val", "--sample", split.plan.samples[0].sample_id]
    path = tmp_path / "store.stream"
    words = ["export", str(tiny_store.url), *names, "--output", str(path)]
    assert cli.main(words) == 0
    stream = read_stream_file(path)
    assert stream.cuts == (*STORE_CUTS, 192)
    channels = split.store.ranking(codec.spec.codec_id, RANKING).channels(64)
    fewer = make_checkpoint(
        tmp_path / "fewer.pt", codec, selection="any", channels=channels, cuts=(16, 64)
    )
    read = open_transmission(fewer).until_confident(stream, 2)
    assert read.channels == stream.channels[:64]
