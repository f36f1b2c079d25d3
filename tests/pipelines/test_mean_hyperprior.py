"""A store of the mean and scale hyperprior through every command that a store goes through."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.codec import Codec, codec_from_store, decode_y, load_codec
from latent_store.codec.families.registry import FAMILIES
from latent_store.codec.stock import MeanScaleHyperprior
from latent_store.errors import CheckpointError, FormatVersionError
from latent_store.format import schema
from latent_store.store import Split
from latent_store.tools.decode import decode_gaussians
from latent_store.views.statistics import channel_statistics
from pipelines import encode, frequency, reorder
from pipelines.jobs import encoding
from tests.benchmarks.stock_codec import compare_with_stock
from tests.conftest import HEIGHT, RANKING, TRAIN, VAL, WIDTH
from tests.latent_store.codec.made_codec import make_model, save
from tests.pipelines.kills import contents
from training import evaluate, segment, train

CHANNELS, KEEP = 40, 16
SELECTIONS = {
    "none": "--selection none",
    "dynamic": "--selection dynamic",
    "static": f"--selection static --mask {RANKING} --keep {KEEP}",
    "any": f"--selection any --mask {RANKING}",
    "pixel": "--domain pixel",
}
TRAINING = """
    --init scratch --aspp_width 8 --backbone mobilenet_v2 --batch_size 2 --crop 32 --max_steps 2
    --transform_init fresh --lambda_kd 0 --workers 0 --no-tensorboard --device cpu --val_split none
"""


@pytest.fixture(scope="module")
def url(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6 + 4 scenes by a made codec of this kind, with a ranking; do not write to it."""
    folder = tmp_path_factory.mktemp("mean")
    model = make_model(8, CHANNELS, "mbt2018-mean")
    with torch.no_grad():  # fresh weights alone round everything to 0
        model.g_a[-1].weight.mul_(30)
        model.h_a[-1].weight.mul_(30)
    (folder / "codec.pth.tar").write_bytes(save(model.state_dict()))
    store = ["--store", str(folder / "mean.zarr"), "--dataset", "cityscapes"]
    made = ["--data_root", str(scene_root), "--codec_checkpoint", str(folder / "codec.pth.tar")]
    made += ["--samples_per_shard", "2", "--threads", "1", "--psnr", "all"]
    ranking = ["--ranking", RANKING, "--method", "entropy", "--keep", "8", str(KEEP)]
    for split in ("train", "val"):
        assert encode.main([*store, "--split", split, *made]) == 0
    assert frequency.main([*store, *ranking]) == 0
    for split in ("train", "val"):
        assert reorder.main([*store, "--split", split, "--ranking", RANKING]) == 0
    return folder / "mean.zarr"


@pytest.fixture
def split(url: Path) -> Split:
    return latent_store.open(url)["cityscapes/val"]


@pytest.fixture(scope="module")
def codec(url: Path) -> Codec:
    return codec_from_store(latent_store.open(url))


@torch.no_grad()
def test_stock_compressai_decodes_what_the_store_holds(
    split: Split, codec: Codec, scene_root: Path
) -> None:
    state = torch.load(io.BytesIO(codec.checkpoint_bytes), weights_only=True)
    stock = MeanScaleHyperprior.from_state_dict(state).double()
    latents = split.latents()
    assert latents.array("y_hat").dtype == np.int16
    y_hat_BCHW = latents.read(latents.rows)
    assert y_hat_BCHW.dtype == np.float32
    assert len(np.unique(y_hat_BCHW)) > 100
    for row, y_hat_CHW in zip(latents.rows.tolist(), y_hat_BCHW, strict=True):
        y, z = latents.y_string(row), latents.z_string(row)
        symbols_CHW = decode_y(codec.tables, y, decode_gaussians(codec, latents, row).indexes_CHW)
        z_hat = stock.entropy_bottleneck.decompress([z], (2, 3))
        scales, means = stock.h_s(z_hat).chunk(2, 1)
        indexes = stock.gaussian_conditional.build_indexes(scales)
        theirs = stock.gaussian_conditional.decompress([y], indexes, torch.float64, means)[0]
        np.testing.assert_array_equal((theirs - means[0]).round().numpy(), symbols_CHW)
        assert np.abs(theirs.numpy() - y_hat_CHW).max() <= 1 / 64
        x_hat = stock.decompress([[y], [z]], (2, 3))["x_hat"][0, :, :HEIGHT, :WIDTH]
        ours_HWC = split.decode(row)
        assert np.abs(255 * x_hat.permute(1, 2, 0).numpy() - ours_HWC).max() < 2
    assert compare_with_stock(split.store, "cityscapes/val", scene_root).passed
    bits = latents.column("channel_bits", latents.rows).sum(1, dtype=np.float64)
    bits += latents.column("hyper_bits", latents.rows)
    flush = latents.column("overhead_bits", latents.rows)
    lengths = 8 * sum(latents.stream_bytes(latents.rows).values())
    np.testing.assert_allclose(bits + flush, lengths, rtol=1e-6)
    assert ((flush >= 64) & (flush <= 128)).all()
    rms = np.sqrt((y_hat_BCHW.astype(np.float64) ** 2).mean((2, 3)))
    np.testing.assert_allclose(latents.column("channel_rms", latents.rows), rms, rtol=1e-6)


def test_the_ranked_copy_holds_the_same(split: Split, capsys: pytest.CaptureFixture[str]) -> None:
    latents, ranked = split.latents(), split.ranked(RANKING)
    order, y_hat = list(ranked.ranking.order), latents.read([0])
    np.testing.assert_array_equal(ranked.read([0], KEEP), y_hat[:, order[:KEEP]])
    assert cli.main(["verify", str(split.store.url), "--deep"]) == 0
    assert cli.main(["selfcheck", str(split.store.url), "--max_samples", "1"]) == 0
    means = 2 * 8 * y_hat.size  # of one picture a split, under 8 settings
    assert f"means in steps of 1/32: in float64 0 of {means:,} differ" in capsys.readouterr().out


def test_one_flipped_byte_is_found_and_made_again(
    url: Path, scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(url, tmp_path / "copy.zarr")
    codec_id = latent_store.open(url).codec().codec_id
    damaged = copy / f"cityscapes/val/latents/{codec_id}/y_hat/c/1/0/0/0"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    assert cli.main(["verify", str(copy)]) == 1
    defect, remedy = capsys.readouterr().out.splitlines()
    assert f"latents/{codec_id}" in defect
    assert remedy.startswith("--repair drops broken shards")
    assert cli.main(["verify", str(copy), "--repair"]) == 1
    assert "dropped 1 shard;" in capsys.readouterr().out
    again = ["--dataset", "cityscapes", "--data_root", str(scene_root), "--split", "val"]
    checkpoint = ["--codec_checkpoint", str(url.parent / "codec.pth.tar")]
    assert encode.main([*again, "--store", str(copy), *checkpoint, "--psnr", "all"]) == 0
    assert damaged.read_bytes() == whole
    assert cli.main(["verify", str(copy), "--deep"]) == 0


def test_views_show_y_hat_as_it_is(split: Split) -> None:
    latents = split.latents()
    values = latents.read(latents.rows)
    lazy = split.to_xarray(ranked=RANKING)
    assert lazy["y_hat"].dtype == lazy["y_hat_ranked"].dtype == np.float32
    np.testing.assert_array_equal(lazy["y_hat"].values, values)
    order = list(split.ranked(RANKING).ranking.order)
    np.testing.assert_array_equal(lazy["y_hat_ranked"][:, :8].values, values[:, order[:8]])
    # Who knows Zarr and CF's conventions alone sees the same.
    with xr.open_zarr(split.store.url, group=latents.group.path) as foreign:
        np.testing.assert_array_equal(foreign["y_hat"].values, values)
    assert f"int16 × 0.03125 (sample: {VAL}, channel: {CHANNELS}," in repr(latents)
    assert "<div>Teachers: none</div>" in split.store._repr_html_()
    found = channel_statistics(lazy)
    flat_CP = values.swapaxes(0, 1).reshape(CHANNELS, -1).astype(np.float64)
    np.testing.assert_allclose(found["mean"], flat_CP.mean(1), atol=1e-12)
    np.testing.assert_allclose(found["variance"], flat_CP.var(1), atol=1e-9)
    np.testing.assert_allclose(found["correlation"], np.corrcoef(flat_CP), atol=1e-9)


def test_pictures_and_stream_files(split: Split, codec: Codec, tmp_path: Path) -> None:
    (sample,) = split.sample_ids([0])
    named = [str(split.store.url), "--split", "cityscapes/val", "--sample", sample]
    for channels in ("all", str(KEEP)):
        path, stream = tmp_path / f"{channels}.png", tmp_path / f"{channels}.stream"
        wanted = ["--channels", channels, "--output"]
        assert cli.main(["decode", *named, *wanted, str(path)]) == 0
        assert cli.main(["export", *named, *wanted, str(stream)]) == 0
        again, url = tmp_path / "again.png", str(split.store.url)
        assert cli.main(["decode", str(stream), "--store", url, "--output", str(again)]) == 0
        assert again.read_bytes() == path.read_bytes()
    ours = np.asarray(Image.open(tmp_path / "all.png"))
    np.testing.assert_array_equal(ours, split.decode(0))
    kept = list(split.ranked(RANKING).ranking.order[:KEEP])
    some = np.asarray(Image.open(tmp_path / f"{KEEP}.png"))
    np.testing.assert_array_equal(some, split.decode(0, kept))
    assert not np.array_equal(some, ours)


def test_every_selection_trains_and_is_evaluated(
    url: Path,
    split: Split,
    tmp_path: Path,
    scene_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = {}
    for name, more in SELECTIONS.items():
        output = tmp_path / name
        fixed = ["--store", str(url), "--output", str(output), *TRAINING.split()]
        assert train.main([*fixed, *more.split()]) == 0
        runs[name] = output / "last.pt"
    fixed = ["--store", str(url), "--dataset", "cityscapes", "--split", "val", "--device", "cpu"]
    fixed += ["--output", str(tmp_path / "report"), "--decode", "all"]
    assert evaluate.main([*fixed, "--checkpoint", *map(str, runs.values())]) == 0
    points = json.loads((tmp_path / "report/results.json").read_text())["points"]
    assert len(points) == 4 + len(split.ranked(RANKING).cuts)
    assert {point["decoded"] for point in points} == {VAL}
    # What a camera sends of the picture itself is what the store holds of it.
    picture = min((scene_root / "leftImg8bit/val").rglob("*.png"))
    shown = ["--checkpoint", str(runs["static"]), "--image", str(picture)]
    assert segment.main([*shown, "--output", str(tmp_path / "shown"), "--device", "cpu"]) == 0
    latents, ranked = split.latents(), split.ranked(RANKING)
    row = split.row_of(picture.stem.removesuffix("_leftImg8bit"))
    y, z = ranked.scalable_string(row, KEEP), latents.z_string(row)
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if line.startswith(picture.stem))
    assert line.split()[2:5] == [str(KEEP), str(len(z)), str(len(y))]


def test_a_reader_without_steps_refuses_it_by_name(
    split: Split, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    codec_id, url = split.latents().spec.codec_id, split.store.url
    jobs = ["--store", url, "--dataset", "cityscapes", "--split", "val", "--ranking", RANKING]
    before = contents(Path(url))
    attrs = split.latents().group.attrs
    assert attrs["encoding-version"] == split.ranked(RANKING).group.attrs["encoding-version"]
    with monkeypatch.context() as older:
        older.setattr(schema, "NEWEST_VERSIONS", {})
        newer = (
            f"cityscapes/val/latents/{codec_id} in {url} has format version 2.0, this library "
            f"reads {schema.COMPONENT_VERSION}; install a release of latent-store that reads it"
        )
        with pytest.raises(FormatVersionError) as caught:
            latent_store.open(url)["cityscapes/val"].latents()
        assert str(caught.value) == newer
        assert fails(reorder.main, jobs) == f"reorder-latents: error: {newer}"
        assert len(latent_store.open(url)["cityscapes/val"].labels().rows) == VAL
    with monkeypatch.context() as other:
        other.delitem(FAMILIES, "mbt2018-mean")
        encoding._codec.cache_clear()
        unknown = (
            f"{codec_id} is of architecture mbt2018-mean, this release has bmshj2018-hyperprior; "
            "install one that has it"
        )
        with pytest.raises(CheckpointError) as caught:
            codec_from_store(latent_store.open(url))
        assert str(caught.value) == unknown
        assert fails(reorder.main, [*jobs, "--overwrite"]) == f"reorder-latents: error: {unknown}"
    assert contents(Path(url)) == before


def test_steps_that_do_not_fit_are_told(
    url: Path, scene_root: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    one = ["--dataset", "cityscapes", "--data_root", str(scene_root), "--split", "train"]
    one += ["--store", str(tmp_path / "narrow.zarr"), "--max_samples", "1"]
    one += ["--codec_checkpoint", str(url.parent / "codec.pth.tar"), "--y_hat_dtype", "int8"]
    line = fails(encode.main, one, status=1)
    assert "beyond int8; encode into a new store with --y_hat_dtype int16" in line


def test_both_kinds_stand_in_one_store(url: Path, scene_root: Path, tmp_path: Path) -> None:
    copy, scale = tmp_path / "both.zarr", tmp_path / "scale.pth.tar"
    shutil.copytree(url, copy)
    scale.write_bytes(save(make_model(8, 24).state_dict()))
    again = ["--dataset", "cityscapes", "--data_root", str(scene_root), "--split", "train"]
    again += ["--store", str(copy), "--codec_checkpoint", str(scale)]
    assert encode.main(again) == 0
    store = latent_store.open(copy)
    rows = {
        spec.architecture: store["cityscapes/train"].latents(codec_id).record.num_rows
        for codec_id, spec in store.codecs().items()
    }
    assert rows == {"bmshj2018-hyperprior": TRAIN, "mbt2018-mean": TRAIN}
    assert "y_hat_steps" not in load_codec(checkpoint=scale).spec.to_attrs()
