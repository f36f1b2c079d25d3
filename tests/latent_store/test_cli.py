"""`latent-store decode`, `export` and `selfcheck` on a real, small store."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.codec import (
    codec_from_bytes,
    codec_from_store,
    read_stream_file,
    unpack_stream,
)
from latent_store.codec.hyperprior import Gaussians
from latent_store.tools.selfcheck import Execution, SelfCheck, Tally, _gaussians
from tests.conftest import HEIGHT, OF_FILE, RANKING, WIDTH, TinyStore
from tests.latent_store.codec.made_codec import make_model, save

Fails = Callable[..., str]


@pytest.fixture
def sample(tiny_store: TinyStore) -> str:
    return latent_store.open(tiny_store.url)["cityscapes/val"].sample_ids([1])[0]


@pytest.fixture
def exported(tiny_store: TinyStore, sample: str, tmp_path: Path) -> Path:
    path = tmp_path / "sample.stream"
    assert cli.main(["export", *named(tiny_store, sample), "--output", str(path)]) == 0
    return path


def named(store: TinyStore, sample: str) -> list[str]:
    """Returns the arguments that name a sample; the train split has one of that id too."""
    return [str(store.url), "--split", "cityscapes/val", "--sample", sample]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_stream_file_holds_the_stored_strings_and_decodes_to_the_stored_y_hat(
    tiny_store: TinyStore, sample: str, exported: Path
) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/val"]
    stream = read_stream_file(exported)
    assert (stream.height, stream.width, stream.cuts) == (HEIGHT, WIDTH, (16, 32, 64, 192))
    assert stream.z == split.latents().z_string(1)
    assert stream.y == split.ranked(RANKING).scalable_string(1, 192)
    y_hat_CHW = split.latents().read([1])[0]
    codec = codec_from_store(split.store)
    np.testing.assert_array_equal(unpack_stream(codec, stream).full(), y_hat_CHW)
    kept = unpack_stream(codec, stream, 16)
    np.testing.assert_array_equal(kept.y_hat_KHW, y_hat_CHW[list(kept.channels)])


def test_without_a_ranking_the_natural_order_string_is_exported(
    copied_store: TinyStore, sample: str, tmp_path: Path, fails: Fails
) -> None:
    store = latent_store.open(copied_store.url)
    shutil.rmtree(copied_store.url / f"codecs/{store.codec().codec_id}/rankings")
    path = tmp_path / "natural.stream"
    arguments = ["export", *named(copied_store, sample), "--output", str(path)]
    assert cli.main(arguments) == 0
    stream = read_stream_file(path)
    assert (stream.selection, stream.y) == ("all", store["cityscapes/val"].latents().y_string(1))
    y_hat_CHW = store["cityscapes/val"].latents().read([1])[0]
    decoded = unpack_stream(codec_from_store(store), stream).full()
    np.testing.assert_array_equal(decoded, y_hat_CHW)
    error = fails(cli.main, [*arguments, "--channels", "16"])
    assert "name a ranking with --ranking" in error


@pytest.mark.parametrize("channels", ["16", "64", "all"])
def test_store_and_file_decode_to_the_same_picture(
    tiny_store: TinyStore, sample: str, exported: Path, tmp_path: Path, channels: str
) -> None:
    made = []
    for number, source in enumerate((named(tiny_store, sample), [str(exported), *OF_FILE])):
        path = tmp_path / f"{number}.png"
        assert cli.main(["decode", *source, "--channels", channels, "--output", str(path)]) == 0
        made.append(pixels(path))
    assert made[0].shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(*made)


def test_several_numbers_of_channels_give_a_folder_or_a_strip(
    tiny_store: TinyStore, sample: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = ["decode", *named(tiny_store, sample), "--channels", "16", "64", "all"]
    capsys.readouterr()
    assert cli.main([*decode, "--output", str(tmp_path / "pictures")]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [int(line.split(" bytes")[0].rsplit(" ", 1)[1]) for line in lines]
    assert sizes == sorted(set(sizes))
    assert "dB PSNR against the full decode (all channels against the original: " in lines[0]
    assert "; the full decode (all channels against the original: " in lines[2]
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["16.png", "64.png", "all.png"]
    assert cli.main([*decode, "--strip", "--output", str(tmp_path / "strip.png")]) == 0
    assert pixels(tmp_path / "strip.png").shape[1] >= 3 * WIDTH


def test_psnr_against_the_original_is_what_was_measured_when_encoding(
    tiny_store: TinyStore,
    sample: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fails: Fails,
) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/val"]
    image = tiny_store.data_root / split.index["image_uri"].to_pylist()[1]
    decode = ["decode", *named(tiny_store, sample), "--output", str(tmp_path / "x.png")]
    capsys.readouterr()
    assert cli.main([*decode, "--image", str(image)]) == 0
    line = capsys.readouterr().out
    stored = split.latents().quality([1])["psnr"][0]
    assert f"{stored:.2f} dB PSNR against the original" in line
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(small)
    error = fails(cli.main, [*decode, "--image", str(small)])
    assert f"small.png is 8x9, the stream's picture {HEIGHT}x{WIDTH}" in error


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ("0", r"has cuts at [16, 32, 64, 192], not at 0"),
        ("17", r"has cuts at [16, 32, 64, 192], not at 17"),
        ("200", r"has cuts at [16, 32, 64, 192], not at 200"),
        ("some", "--channels must be all or a number of channels, got 'some'"),
        ("1.5", "--channels must be all or a number of channels, got '1.5'"),
    ],
)
def test_numbers_of_channels_that_no_stream_has(
    tiny_store: TinyStore,
    sample: str,
    exported: Path,
    tmp_path: Path,
    fails: Fails,
    channels: str,
    message: str,
) -> None:
    more = ["--channels", channels, "--output", str(tmp_path / "x.png")]
    stored = named(tiny_store, sample)
    line = fails(cli.main, ["decode", *stored, *more])
    assert message in line
    assert line.endswith("; its codec has 192 channels") == (channels == "200")
    assert message in fails(cli.main, ["decode", str(exported), *OF_FILE, *more])
    assert message in fails(cli.main, ["export", *stored, *more])
    assert not (tmp_path / "x.png").exists()


def test_a_file_cut_down_to_some_channels_has_no_more(
    tiny_store: TinyStore, sample: str, tmp_path: Path, fails: Fails, capsys
) -> None:
    path, picture = tmp_path / "16.stream", str(tmp_path / "x.png")
    export = ["export", *named(tiny_store, sample), "--output", str(path)]
    assert cli.main([*export, "--channels", "16"]) == 0
    capsys.readouterr()
    assert cli.main(["decode", str(path), *OF_FILE, "--output", picture]) == 0
    assert "16 of 192 channels" in (line := capsys.readouterr().out)
    assert line.strip().endswith("; no PSNR without --image")
    error = fails(
        cli.main, ["decode", str(path), *OF_FILE, "--channels", "32", "--output", picture]
    )
    assert "has cuts at [16], not at 32" in error


def test_a_stream_of_another_codec_needs_that_codec(
    tiny_store: TinyStore, exported: Path, tmp_path: Path, fails: Fails
) -> None:
    other = tmp_path / "other.pth.tar"
    other.write_bytes(save(make_model(8, 12).state_dict()))
    decode = ["decode", str(exported), "--output", str(tmp_path / "x.png")]
    error = fails(cli.main, [*decode, "--codec_checkpoint", str(other)])
    assert "the stream file is of the codec with digest" in error
    assert cli.main([*decode, "--store", str(tiny_store.url)]) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-3], "was truncated"),
        (lambda data: data[:5], "is no stream file"),
        (lambda data: b"", "is no stream file"),
        (lambda data: b"PK" + data, "is no stream file"),
        (lambda data: data + b"x", "1 bytes behind its end"),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "has crc32c"),
    ],
    ids=["truncated", "stub", "empty", "foreign", "longer", "altered"],
)
def test_damaged_stream_files_are_refused(
    exported: Path, tmp_path: Path, fails: Fails, damage: Callable[[bytes], bytes], message: str
) -> None:
    exported.write_bytes(damage(exported.read_bytes()))
    decode = ["decode", str(exported), "--output", str(tmp_path / "x.png")]
    assert message in fails(cli.main, decode)


def test_what_decode_and_export_do_not_understand(
    tiny_store: TinyStore, exported: Path, sample: str, tmp_path: Path, fails: Fails
) -> None:
    url, output = str(tiny_store.url), ["--output", str(tmp_path / "x.png")]
    assert "has no sample 'nobody' in any of: " in fails(
        cli.main, ["decode", url, "--sample", "nobody", *output]
    )
    assert "name a sample of the store with --sample" in fails(cli.main, ["decode", url, *output])
    error = fails(cli.main, ["decode", str(exported), "--sample", sample, *output])
    assert "is a file; --sample and export go with a store" in error
    error = fails(cli.main, ["decode", url, "--sample", sample, *output])
    assert "in each of: cityscapes/train, cityscapes/val; name one with --split" in error
    several = ["decode", *named(tiny_store, sample), "--channels", "16", "32", *output]
    assert "gives 2 pictures: let --output be a folder, or give --strip" in fails(cli.main, several)


def test_selfcheck_finds_no_index_that_moves(
    tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["selfcheck", str(tiny_store.url), "--max_samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    symbols = 4 * 192 * 8 * 12  # images × channels × coded size / 16
    assert f"float64: 0 mismatches in {8 * symbols:,} symbols" in lines
    assert "stored checksums of indexes: 0 of 16 differ" in lines


def test_selfcheck_counts_indexes_that_differ_and_images_that_they_cost() -> None:
    tally = Tally()
    indexes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    same = Gaussians(indexes_CHW=indexes)
    tally.add(same, same)
    tally.add(Gaussians(indexes_CHW=indexes + (indexes == 5) + (indexes == 7)), same)
    assert (tally.symbols, tally.mismatches, tally.images_hit) == (48, 2, 1)
    way = Execution(
        device="cpu", threads=1, memory_format="contiguous", batch=1, dtype=torch.float64
    )
    assert not SelfCheck(images=2, tallies={way: tally}).holds
    single = dataclasses.replace(way, dtype=torch.float32)
    assert SelfCheck(images=2, tallies={single: tally}, checksums=4).holds
    assert not SelfCheck(images=2, checksums=4, wrong_checksums=1).holds


def test_selfcheck_counts_means_that_move_by_a_step() -> None:
    codec = codec_from_bytes(save(make_model(8, 12, "mbt2018-mean").state_dict()))
    z_BNHW = torch.arange(16).reshape(2, 8, 1, 1)
    expected = [codec.gaussians(z_NHW.numpy()) for z_NHW in z_BNHW]
    way = Execution(
        device="cpu", threads=1, memory_format="channels_last", batch=2, dtype=torch.float64
    )
    h_s = copy.deepcopy(codec.model.h_s).to(torch.float64, memory_format=torch.channels_last)
    for moved in (0, 5):
        tally = Tally()
        for mine, theirs in zip(_gaussians(codec, h_s, z_BNHW, way), expected, strict=True):
            tally.add(mine, theirs)
        assert (tally.symbols, tally.mismatches) == (2 * 12 * 4 * 4, 0)
        assert tally.moved_means == moved * 2 * 4 * 4
        found = SelfCheck(images=2, tallies={way: tally}, steps=32)
        assert found.holds is (moved == 0)
        told = f"means in steps of 1/32: in float64 {tally.moved_means} of 384 differ, in float32"
        assert told in found.describe()
        h_s[-1].bias.data[12:17] += 1 / 32  # the first five means


def test_selfcheck_needs_latents_and_a_device(tiny_store: TinyStore, fails: Fails) -> None:
    url = str(tiny_store.url)
    assert "--max_samples must be 1 or more, got 0" in fails(
        cli.main, ["selfcheck", url, "--max_samples", "0"]
    )
    if not torch.cuda.is_available():
        error = fails(cli.main, ["selfcheck", url, "--device", "cuda"])
        assert "there is no CUDA device here; use --device cpu" in error
