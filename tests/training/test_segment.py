"""A camera's stream file is all that the server needs, and gives what the evaluation sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_store import cli
from latent_store.codec import (
    decode_z,
    load_codec,
    pack_stream,
    read_image,
    read_stream_file,
    write_stream_file,
)
from tests.conftest import OF_FILE, RANKING, VAL, TinyStore
from tests.latent_store.codec.made_codec import make_model, save
from tests.training.real_networks import KEEP, make_checkpoint, make_checkpoints
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline
from training.evaluation.networks_to_evaluate import find_networks
from training.segment import main
from training.tasks.pictures import read_labels
from training.tasks.segmentation import SEGMENTATION
from training.transmission.camera_server import Stopwatch, open_transmission

CODED = (128, 192)
KINDS = ("pixel", "none", "dynamic", "static")


@pytest.fixture(scope="module")
def checkpoints(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_checkpoints(tmp_path_factory.mktemp("networks"), tiny_store)


@pytest.fixture(scope="module")
def images(tiny_store: TinyStore) -> list[Path]:
    """The pictures of the validation split, in row order."""
    paths = sorted((tiny_store.data_root / "leftImg8bit" / "val").glob("*/*.png"))
    assert len(paths) == VAL
    return paths


def _run(checkpoint: Path, output: Path, *more: object) -> int:
    fixed = ["--checkpoint", str(checkpoint), "--output", str(output), "--device", "cpu"]
    return main([*fixed, *map(str, more)])


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_bytes_are_those_of_the_evaluation(
    split, checkpoints, images, tmp_path, kind, capsys
):
    report = tmp_path / "numbers.json"
    assert _run(checkpoints[kind], tmp_path, "--image", *images, "--json", report) == 0
    (evaluated,) = find_networks([checkpoints[kind]], split.store)
    pipeline = Pipeline(EvaluationSplit(split, SEGMENTATION), evaluated)
    found = json.loads(report.read_text())["pictures"]
    for row, path in enumerate(images):
        assert split.sample_ids([row])[0].endswith(path.stem.removesuffix("_leftImg8bit"))
        (predicted_HW,), (rate,) = pipeline.outputs([row], CODED)
        height, width = split.sizes([row])[0]
        map_HW = read_labels(tmp_path / f"{path.stem}_labelTrainIds.png")
        np.testing.assert_array_equal(map_HW, predicted_HW)
        parts = found[row]["bytes"]
        assert parts["hyper"] == rate.hyper_bytes
        assert parts["mask"] == rate.mask_bytes
        # A prefix of the scalable stream is at most 4 bytes longer than a stream of its own.
        assert 0 <= rate.y_bytes - parts["y"] <= (4 if kind == "static" else 0)
        file_bytes = (tmp_path / f"{path.stem}.stream").stat().st_size
        assert parts["file"] == file_bytes == sum(parts.values()) - parts["file"]
        counted = parts["hyper"] + parts["y"] + parts["mask"]
        assert found[row]["bpp"] == pytest.approx(8 * counted / (height * width))
    assert len(np.unique(map_HW)) > 1
    out = capsys.readouterr().out
    assert " header (not in bpp) " in out
    assert "camera, milliseconds" in out
    assert "server, milliseconds" in out


def test_the_header_is_a_small_part_of_a_small_picture(checkpoints, images, tmp_path):
    report = tmp_path / "r.json"
    for kind in ("static", "dynamic", "none"):
        flags = ("--image", images[0], "--encode_only", "--json", report)
        assert _run(checkpoints[kind], tmp_path / kind, *flags) == 0
        (told,) = json.loads(report.read_text())["pictures"]
        assert told["bytes"]["header"] < 100
    # What a camera writes needs no store, and no other network's order.
    stream = str(tmp_path / f"static/{images[0].stem}.stream")
    assert cli.main(["decode", stream, *OF_FILE, "--output", str(tmp_path / "x.png")]) == 0


def test_the_server_needs_the_stream_file_alone(checkpoints, images, tmp_path, capsys):
    for kind in ("static", "dynamic"):
        together, camera, server = (tmp_path / kind / n for n in ("both", "camera", "server"))
        assert _run(checkpoints[kind], together, "--image", images[0]) == 0
        assert _run(checkpoints[kind], camera, "--image", images[0], "--encode_only") == 0
        stream = camera / f"{images[0].stem}.stream"
        assert [p.name for p in camera.iterdir()] == [stream.name]
        capsys.readouterr()
        assert _run(checkpoints[kind], server, "--stream", stream) == 0
        assert "camera, milliseconds" not in capsys.readouterr().out
        name = f"{images[0].stem}_labelTrainIds.png"
        assert (server / name).read_bytes() == (together / name).read_bytes()
        assert sorted(p.name for p in server.iterdir()) == [
            f"{images[0].stem}_{part}.png" for part in ("colour", "labelTrainIds", "overlay")
        ]


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 64), (130, 70)])
def test_pictures_of_any_size(checkpoints, tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    for kind in ("static", "pixel"):
        assert _run(checkpoints[kind], tmp_path / kind, "--image", path) == 0
        for part in ("labelTrainIds", "colour", "overlay"):
            with Image.open(tmp_path / kind / f"picture_{part}.png") as made:
                assert made.size == (size[1], size[0])


def test_a_scalable_stream_serves_static_networks_and_those_of_all_channels(
    split, codec, checkpoints, images
):
    image_HWC = read_image(images[1])
    whole = open_transmission(checkpoints["none"])
    sent = whole.send(image_HWC, Stopwatch(torch.device("cpu")))
    y_hat_CHW = split.latents().read([1])[0]
    z_NHW = decode_z(codec.tables, sent.z, *sent.hyper_size)
    gaussians = codec.gaussians(z_NHW)
    scalable = pack_stream(
        codec,
        gaussians.symbols(y_hat_CHW),
        z_NHW,
        gaussians.indexes_CHW,
        size=image_HWC.shape[:2],
        selection="scalable",
        channels=split.store.ranking(codec.spec.codec_id, RANKING).order,
        cuts=(KEEP, 64),
    )
    for kind in ("none", "static"):
        ends = open_transmission(checkpoints[kind])
        own = ends.send(image_HWC, Stopwatch(ends.network.device))
        expected_HW, _ = ends.receive(own, Stopwatch(ends.network.device))
        map_HW, _ = ends.receive(scalable, Stopwatch(ends.network.device))
        np.testing.assert_array_equal(map_HW, expected_HW)


@pytest.mark.parametrize(
    ("cuts", "server"),
    [
        ((16, 32, 64), {"selection": "static", "keep": 16}),
        ((16, 32, 64), {"selection": "static", "keep": 32}),
        ((16, 32, 64), {"selection": "any", "keep": 32, "cuts": (16, 32)}),
        ((64, 192), {}),
        ((192,), {}),
    ],
    ids=["static-16", "static-32", "any-32", "all", "all-of-static"],
)
def test_one_stream_file_serves_every_n(split, codec, images, tmp_path, cuts, server):
    ranking = split.store.ranking(codec.spec.codec_id, RANKING)

    def network(name: str, keep: int | None = None, **config) -> Path:
        channels = None if keep is None else ranking.channels(keep)
        return make_checkpoint(tmp_path / f"{name}.pt", codec, channels=channels, **config)

    several = {"selection": "any", "cuts": cuts} if len(cuts) > 1 else {"selection": "static"}
    camera, other = network("camera", cuts[-1], **several), network("server", **server)
    assert _run(camera, tmp_path / "sent", "--image", images[0], "--encode_only") == 0
    stream = tmp_path / f"sent/{images[0].stem}.stream"
    assert _run(other, tmp_path / "own", "--image", images[0]) == 0
    assert _run(other, tmp_path / "received", "--stream", stream) == 0
    own, received = (
        tmp_path / n / f"{images[0].stem}_labelTrainIds.png" for n in ("own", "received")
    )
    np.testing.assert_array_equal(read_labels(received), read_labels(own))


@pytest.mark.parametrize(
    ("encoded_by", "decoded_by"),
    [
        ("none", "static"), ("static", "none"), ("static", "dynamic"), ("dynamic", "static"),
        ("dynamic", "pixel"),
    ],
)  # fmt: skip
def test_streams_of_other_channels_are_refused(
    checkpoints, images, tmp_path, fails, encoded_by, decoded_by
):
    assert _run(checkpoints[encoded_by], tmp_path, "--image", images[0], "--encode_only") == 0
    stream = tmp_path / f"{images[0].stem}.stream"
    flags = ("--output", tmp_path, "--stream", stream)
    line = fails(main, ["--checkpoint", str(checkpoints[decoded_by]), *map(str, flags)])
    assert "cannot use this stream, which carries" in line
    assert "encode the picture with this checkpoint" in line


def test_another_ranking_is_refused(codec, checkpoints, images, tmp_path, fails):
    channels = tuple(range(KEEP))
    other = make_checkpoint(tmp_path / "o.pt", codec, selection="static", channels=channels)
    assert _run(checkpoints["static"], tmp_path, "--image", images[0], "--encode_only") == 0
    stream = tmp_path / f"{images[0].stem}.stream"
    flags = ("--checkpoint", other, "--output", tmp_path, "--stream", stream)
    assert "carries 16 channels by selection 'static'" in fails(main, [*map(str, flags)])


def test_streams_of_another_codec_are_refused(codec, checkpoints, images, tmp_path, fails):
    state = torch.load(_file(tmp_path / "demo.pt", codec.checkpoint_bytes), weights_only=True)
    state["g_s.6.bias"] = state["g_s.6.bias"] + 0.01
    torch.save(state, tmp_path / "other.pth.tar")
    other = load_codec(checkpoint=tmp_path / "other.pth.tar")
    network = make_checkpoint(tmp_path / "other.pt", other)
    assert _run(network, tmp_path, "--image", images[0], "--encode_only") == 0
    stream = tmp_path / f"{images[0].stem}.stream"
    flags = ("--checkpoint", checkpoints["none"], "--output", tmp_path, "--stream", stream)
    assert "latents of different codecs cannot be mixed" in fails(main, [*map(str, flags)])


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_damaged_stream_is_refused(checkpoints, images, tmp_path, fails):
    assert _run(checkpoints["static"], tmp_path, "--image", images[0], "--encode_only") == 0
    stream = tmp_path / f"{images[0].stem}.stream"
    data = bytearray(stream.read_bytes())
    data[-1] ^= 1
    stream.write_bytes(data)
    flags = ("--checkpoint", checkpoints["static"], "--output", tmp_path, "--stream", stream)
    assert "crc32c" in fails(main, [*map(str, flags)])


def test_a_teacher_needs_a_codec(codec, checkpoints, images, tmp_path, fails):
    flags = ("--checkpoint", checkpoints["teacher"], "--output", tmp_path, "--image", images[0])
    line = fails(main, [*map(str, flags)])
    assert "carries no codec (it is a teacher): name one with --codec_checkpoint" in line
    weights = _file(tmp_path / "codec.pth.tar", codec.checkpoint_bytes)
    assert main([*map(str, flags), "--codec_checkpoint", str(weights)]) == 0
    assert read_labels(tmp_path / f"{images[0].stem}_labelTrainIds.png").shape


def test_a_codec_that_is_not_the_networks_is_refused(codec, checkpoints, images, tmp_path, fails):
    words = ["--checkpoint", checkpoints["none"], "--output", tmp_path, "--image", images[0]]
    own = _file(tmp_path / "own.pth.tar", codec.checkpoint_bytes)
    other = _file(tmp_path / "other.pth.tar", save(make_model(8, 24).state_dict()))
    assert main([*map(str, words), "--codec_checkpoint", str(own)]) == 0
    line = fails(main, [*map(str, words), "--codec_checkpoint", str(other)])
    assert "none.pt has weights" in line
    assert "use the codec that wrote the latents" in line


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "missing"])
def test_unreadable_pictures_are_one_line(checkpoints, tmp_path, fails, content):
    path = tmp_path / "street.png"
    if content is not None:
        path.write_bytes(content)
    flags = ("--checkpoint", checkpoints["none"], "--output", tmp_path, "--image", path)
    assert "street.png" in fails(main, [*map(str, flags)])


def test_one_bad_picture_does_not_keep_the_others_from_being_done(
    checkpoints, images, tmp_path, fails
):
    bad, missing, report = tmp_path / "bad.png", tmp_path / "missing.png", tmp_path / "r.json"
    bad.write_bytes(b"no picture")
    given = [images[0], bad, missing, images[1]]
    args = ["--checkpoint", checkpoints["none"], "--output", tmp_path / "out", "--device", "cpu"]
    args = [*map(str, [*args, "--json", report, "--image", *given])]
    line = fails(main, args, status=1)
    assert "2 of 4 inputs failed: " in line
    assert "bad.png" in line
    assert "missing.png" in line
    content = json.loads(report.read_text())
    assert [numbers["name"] for numbers in content["pictures"]] == [images[0].stem, images[1].stem]
    assert list(content["failed"]) == [str(bad), str(missing)]
    maps = {path.name for path in (tmp_path / "out").glob("*_labelTrainIds.png")}
    assert maps == {f"{image.stem}_labelTrainIds.png" for image in images[:2]}


def test_flags_that_contradict_each_other_are_refused(checkpoints, tmp_path, fails):
    fixed = ["--checkpoint", str(checkpoints["none"]), "--output", str(tmp_path)]
    stream = [*fixed, "--stream", "a.stream"]
    assert "--encode_only goes with --image" in fails(main, [*stream, "--encode_only"])
    twins = [*fixed, "--image", "a/x.png", "b/x.png"]
    assert "two inputs are named x" in fails(main, twins)
    assert "--threads must be 1 to 1024, got 0" in fails(main, [*stream, "--threads", "0"])


def test_a_gate_that_keeps_nothing_still_gives_a_map(codec, images, tmp_path):
    path = make_checkpoint(tmp_path / "shut.pt", codec, selection="dynamic", gate_bias="-100")
    assert _run(path, tmp_path, "--image", images[0]) == 0
    stream = read_stream_file(tmp_path / f"{images[0].stem}.stream")
    assert stream.channels == ()
    assert stream.part_bytes["y"] == 0
    assert (tmp_path / f"{images[0].stem}_overlay.png").exists()


def test_a_stream_file_written_again_is_the_same(checkpoints, images, tmp_path):
    assert _run(checkpoints["dynamic"], tmp_path, "--image", images[0], "--encode_only") == 0
    path = tmp_path / f"{images[0].stem}.stream"
    write_stream_file(tmp_path / "copy.stream", read_stream_file(path))
    assert path.read_bytes() == (tmp_path / "copy.stream").read_bytes()
