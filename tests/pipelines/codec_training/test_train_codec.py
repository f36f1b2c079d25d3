"""The codec's training: what is written loads everywhere, codes at once, and resumes."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_store.codec.stock import ScaleHyperprior
from latent_store.errors import CheckpointError, DatasetError, LatentStoreError
from pipelines.codec_training import images as codec_images
from pipelines.codec_training import training as codec_training
from pipelines.codec_training.images import RandomCrops
from pipelines.codec_training.publishing import evaluate_codec, finished_state, fit_quantiles
from pipelines.codec_training.training import CodecTraining, new_codec
from pipelines.scenes.scene import render_scene
from pipelines.train_codec import main

FLAGS = ("--batch_size", "1", "--crop", "64", "--num_scenes", "2", "--seed", "3")


@pytest.fixture(autouse=True)
def small_scenes(monkeypatch):
    monkeypatch.setattr(codec_images, "_SCENE_SIZES", ((64, 128), (96, 160)))
    monkeypatch.setattr(
        codec_images,
        "held_out_scenes",
        lambda seed: [render_scene(seed, 3_000_000, 64, 128).image_HWC],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """Two steps of training by the command, with what it printed."""
    output = tmp_path_factory.mktemp("codec") / "codec.pth.tar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_images, "_SCENE_SIZES", ((64, 128),))
        patch.setattr(
            codec_images,
            "held_out_scenes",
            lambda seed: [render_scene(seed, 3_000_000, 64, 128).image_HWC],
        )
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        status = main(["--output", str(output), "--steps", "2", *FLAGS])
    assert status == 0
    return output, "\n".join(lines)


def test_parameters_of_transforms_are_half_and_everything_else_is_not(trained):
    state = torch.load(trained[0], weights_only=True)
    parameters = dict(new_codec(0).named_parameters())
    for name, value in state.items():
        if name in parameters and name.split(".")[0] in ("g_a", "g_s", "h_a", "h_s"):
            assert value.dtype == torch.float16, name
        elif name.endswith(("_offset", "_quantized_cdf", "_cdf_length")):
            assert value.dtype == torch.int32, name
            assert value.numel() > 0, name
        else:
            assert value.dtype == torch.float32, name


def test_buffers_equal_a_fresh_models_after_loading(trained):
    state = torch.load(trained[0], weights_only=True)
    loaded, fresh = ScaleHyperprior.from_state_dict(state), new_codec(0)
    fresh.update()
    ours, theirs = dict(loaded.named_buffers()), dict(fresh.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if not name.startswith("entropy_bottleneck._"):
            assert torch.equal(ours[name], value), name
            assert ours[name].dtype == value.dtype, name


def test_tables_are_those_of_the_rounded_weights(trained):
    loaded = ScaleHyperprior.from_state_dict(torch.load(trained[0], weights_only=True))
    before = {name: value.clone() for name, value in loaded.named_buffers()}
    loaded.update(force=True)
    for name, value in loaded.named_buffers():
        assert torch.equal(before[name], value), name


def test_the_file_codes_and_decodes(trained):
    codec = ScaleHyperprior.from_state_dict(torch.load(trained[0], weights_only=True)).eval()
    x = torch.from_numpy(render_scene(9, 1, 64, 128).image_HWC.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        coded = codec.compress(x)
        decoded = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
        expected = codec.g_s(torch.round(codec.g_a(x))).clamp(0, 1)
    assert torch.allclose(decoded, expected, atol=1e-5)


def test_the_command_reports_what_it_made(trained):
    output, text = trained
    assert "step 2 (100%) loss " in text
    assert "auxiliary loss 0.0" in text
    assert f"{output}: {output.stat().st_size} bytes, sha256 " in text
    assert "1 held-out scenes 256x512: " in text
    assert output.stat().st_size < 12_000_000


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(codec_images, "_SCENE_SIZES", ((64, 128),))
    output, unbroken = tmp_path / "codec.pth.tar", tmp_path / "unbroken.pth.tar"
    flags = ("--steps", "3", *FLAGS, "--learning_rate", "1e-4")
    assert main(["--output", str(unbroken), *flags]) == 0
    loss = codec_training.rate_distortion

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(codec_training, "rate_distortion", stopped)
        assert main(["--output", str(output), *flags]) == 1
    checkpoint = tmp_path / "codec.pth.tar.checkpoint"
    assert f"after step 1 of 3; everything is saved in {checkpoint}" in capsys.readouterr().err
    saved = torch.load(checkpoint, weights_only=True)
    assert list(saved) == ["model", "optimizer", "training", "step", "spent", "content_sha256"]
    assert not output.exists()
    assert main(["--output", str(output), "--resume", *flags]) == 0
    assert output.read_bytes() == unbroken.read_bytes()


def test_the_log_has_each_epochs_means(trained):
    (record,) = map(
        json.loads, trained[0].with_name("codec.pth.tar.jsonl").read_text().splitlines()
    )
    assert (record["kind"], record["step"]) == ("epoch", 2)
    assert 0 < record["bpp"] < record["loss"]


def test_a_checkpoint_can_be_finished_without_more_steps(trained, tmp_path, capsys):
    output, checkpoint = tmp_path / "copy.pth.tar", f"{trained[0]}.checkpoint"
    flags = ("--finalize_only", "--checkpoint", checkpoint)
    assert main(["--output", str(output), *flags, *FLAGS]) == 0
    assert "training checkpoint of step 2" in capsys.readouterr().out
    assert output.read_bytes() == trained[0].read_bytes()


def test_a_checkpoint_is_not_overwritten_unasked(trained, tmp_path, capsys):
    flags = ("--checkpoint", f"{trained[0]}.checkpoint")
    assert main(["--output", str(tmp_path / "codec"), *FLAGS, *flags]) == 2
    assert "give --resume to go on from it, --finalize_only" in capsys.readouterr().err


def test_training_never_begins_over_an_older_log(tmp_path, fails):
    log = tmp_path / "c.pth.tar.jsonl"
    log.write_text("{}\n")
    words = ["--output", str(tmp_path / "c.pth.tar"), "--steps", "1", *FLAGS]
    line = fails(main, words)
    assert f"has {log.name} of a run, and nothing to go on from: give another --output" in line
    assert "or --overwrite to begin anew with the older log kept beside" in line
    assert log.read_text() == "{}\n"
    assert main([*words, "--overwrite"]) == 0
    assert (tmp_path / "c.pth.tar.1.jsonl").read_text() == "{}\n"
    assert log.read_text() != "{}\n"


def test_a_loss_that_is_not_finite_fails_the_job(tmp_path, capsys, monkeypatch):
    lost = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(codec_training, "rate_distortion", lambda *_: (lost, lost, lost))
    assert main(["--output", str(tmp_path / "codec"), "--steps", "2", *FLAGS]) == 1
    error = capsys.readouterr().err
    assert "the loss is not finite at step 1" in error
    assert "go on with --resume and a lower --learning_rate" in error
    assert [path.name for path in tmp_path.iterdir()] == ["codec.jsonl"]  # the log


def test_resuming_another_kind_of_run_is_refused(trained, tmp_path, capsys):
    flags = ("--resume", "--checkpoint", f"{trained[0]}.checkpoint", "--lmbda", "0.5")
    assert main(["--output", str(tmp_path / "codec"), *FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert "cannot resume with another --lmbda: the run has 0.0067, now it is 0.5; give" in error


def test_quantiles_are_found_for_wide_and_for_shifted_densities():
    model = new_codec(1)
    with torch.no_grad():
        for bias in model.entropy_bottleneck.biases:
            bias += torch.linspace(-20, 20, 128)[:, None, None]
    assert fit_quantiles(model, 40) < 0.01
    quantiles = model.entropy_bottleneck.quantiles[:, 0]
    assert bool((quantiles[:, 0] < quantiles[:, 1]).all())
    assert bool((quantiles[:, 1] < quantiles[:, 2]).all())


def test_too_few_quantile_steps_are_refused(trained, tmp_path, capsys):
    flags = ("--finalize_only", "--checkpoint", f"{trained[0]}.checkpoint", "--aux_steps", "1")
    assert main(["--output", str(tmp_path / "codec"), *FLAGS, *flags]) == 2
    assert "must be below 1; run again with --finalize_only" in capsys.readouterr().err
    assert not (tmp_path / "codec").exists()


def test_weights_beyond_half_precision_are_refused():
    model = new_codec(0)
    with torch.no_grad():
        model.g_a[0].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"g_a\.0\.weight is not finite in half precision"):
        finished_state(model)


def test_scores_count_real_bytes(trained):
    codec = ScaleHyperprior.from_state_dict(torch.load(trained[0], weights_only=True)).eval()
    image = render_scene(0, 5, 64, 128).image_HWC
    score = evaluate_codec(codec, [image])
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        strings = codec.compress(x)["strings"]
    assert score.bpp == 8 * sum(len(s) for group in strings for s in group) / (64 * 128)
    assert 3 < score.psnr < 60
    assert score.images == 1


def test_batches_depend_on_seed_and_step_only():
    images = [render_scene(0, k, 96, 128).image_HWC for k in range(3)]
    one, other = (RandomCrops(images, 64, 4, 7) for _ in range(2))
    assert torch.equal(one.batch(5), other.batch(5))
    assert not torch.equal(one.batch(5), one.batch(6))
    batch = one.batch(0)
    assert batch.shape == (4, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1


def test_a_folder_of_images_is_read_without_the_small_ones(tmp_path):
    big, small = np.zeros((80, 90, 3), np.uint8), np.zeros((20, 90, 3), np.uint8)
    (tmp_path / "sub").mkdir()
    Image.fromarray(big).save(tmp_path / "sub" / "big.png")
    Image.fromarray(small).save(tmp_path / "small.png")
    images = codec_images.folder_images(tmp_path, 64)
    assert [image.shape for image in images] == [(80, 90, 3)]
    with pytest.raises(DatasetError, match="no image of at least 128x128 pixels among its 2"):
        codec_images.folder_images(tmp_path, 128)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"cannot read picture broken\.png: cannot identify"):
        codec_images.folder_images(tmp_path, 64)


def test_a_folder_of_images_is_read_as_data_sets_are(tmp_path):
    grey = np.arange(80 * 90, dtype=np.uint16).reshape(80, 90) * 9
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.mkdir()
    root.mkdir()
    Image.fromarray(grey).save(disk / "grey.PNG")
    (disk / "._grey.PNG").write_bytes(b"nothing")
    (root / "link").symlink_to(disk)
    (image,) = codec_images.folder_images(root, 64)
    np.testing.assert_array_equal(image, np.repeat((grey >> 8)[..., None], 3, axis=2))
    os.mkfifo(root / "pipe.png")
    with pytest.raises(DatasetError, match=r"pipe\.png is no regular file"):
        codec_images.folder_images(root, 64)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--crop", "100"), "--crop must be a multiple of 64"),
        (("--steps", "0"), "--steps must be 1 or more, got 0"),
        (("--lmbda", "-1"), "--lmbda must be above 0, got -1.0"),
        (("--data", "/nowhere"), "--data must be 'procedural' or a folder of images"),
        (("--resume",), "there is no training checkpoint"),
        (("--finalize_only",), "there is no training checkpoint"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(tmp_path, fails, flags, words):
    error = fails(main, ["--output", str(tmp_path / "codec"), *FLAGS, *flags])
    assert error.startswith("train-codec: error: ")
    assert words in error


def test_impossible_settings_are_refused_by_the_class_too():
    with pytest.raises(LatentStoreError, match="--time_limit_minutes must be 0 or more"):
        CodecTraining(time_limit_minutes=-1)
