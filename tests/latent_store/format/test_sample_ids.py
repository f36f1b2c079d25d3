"""Sample ids: what cannot be one is refused by rule, and the rest works in every command."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.errors import DatasetError
from latent_store.format.ids import safe_id
from latent_store.format.plan import make_plan
from latent_store.format.samples import Sample
from pipelines import encode

Fails = Callable[..., str]

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
UNSAFE = [
    "", " ", "a/b", "a\\b", "/", ".", "..", "a\nb", "a\rb", "a\tb", "a\0b", "\x7f", "a\u2028b",
    "a\x85b", "\udcff",
]  # fmt: skip
SAFE = ["...", "a.b", "-x", "a b", "ż東京", "👩‍🚀", "%2e%2e", "x@home", "@hflip.1", "'\"$`*?"]


def sample(name: str) -> Sample:
    return Sample(
        sample_id=name, image_uri="i.png", label_uri="l.png", height=64, width=64, image_bytes=1
    )


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_no_line_of_text_or_a_path_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        sample(name)
    rule = "cannot be a sample id: an id is one line of text without / and \\"
    assert str(caught.value).startswith(f"{name!r} {rule}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", SAFE)
def test_everything_else_is_kept(name: str) -> None:
    assert sample(name).sample_id == name
    assert sample(name).seen_as("hflip").source_id == name


def test_an_original_cannot_be_called_like_a_view() -> None:
    with pytest.raises(DatasetError, match="'a@hflip' cannot be the sample id of an original"):
        sample("a@hflip")


def test_both_unicode_forms_are_one_id() -> None:
    assert sample(DECOMPOSED).sample_id == COMPOSED == sample(COMPOSED).sample_id
    with pytest.raises(DatasetError, match="'é' occurs twice"):
        make_plan("voc", "train", [sample(COMPOSED), sample(DECOMPOSED)], 2)


@given(st.text(max_size=6))
def test_a_safe_id_is_stable_and_one_line(text: str) -> None:
    try:
        name = safe_id(text)
    except DatasetError:
        return
    assert safe_id(name) == name
    assert name.splitlines() == [name]
    assert Path("folder", name).parent == Path("folder")
    assert name.encode().decode() == name


def write_pictures(root: Path, names: list[str]) -> None:
    """Writes a data root in Cityscapes' layout with pictures of these names."""
    rng = np.random.default_rng(0)
    for kind, suffix, mode in (
        ("leftImg8bit", "leftImg8bit", "RGB"),
        ("gtFine", "gtFine_labelIds", "L"),
    ):
        folder = root / kind / "train" / "city"
        folder.mkdir(parents=True)
        for name in names:
            pixels = rng.integers(0, 30, (64, 64, 3) if mode == "RGB" else (64, 64), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{suffix}.png")


def encode_args(root: Path, url: Path) -> list[str]:
    return [
        *("--dataset", "cityscapes", "--data_root", str(root), "--split", "train"),
        *("--store", str(url), "--demo_codec", "--threads", "1", "--views", "hflip"),
    ]


def test_odd_names_go_through_encode_inspect_verify_and_decode(tmp_path: Path, capsys: Any) -> None:
    """The file is named in decomposed form, as some file systems do; it is found in either."""
    root, url = tmp_path / "data", tmp_path / "s.zarr"
    names = [f"caf{DECOMPOSED}", *SAFE]
    write_pictures(root, names)
    assert encode.main(encode_args(root, url)) == 0
    assert encode.main(encode_args(root, url)) == 0
    assert f"is there ({len(names)} samples and {len(names)} views)" in capsys.readouterr().out
    split = latent_store.open(url)["cityscapes/train"]
    assert split.row_of(f"caf{COMPOSED}") == split.row_of(f"caf{DECOMPOSED}")
    assert cli.main(["inspect", str(url)]) == 0
    assert cli.main(["verify", str(url), "--deep"]) == 0
    for name in (f"caf{COMPOSED}", f"caf{DECOMPOSED}@hflip", "-x", "..."):
        picture = tmp_path / "out.png"
        args = ["decode", str(url), f"--sample={name}", "--output", str(picture)]
        assert cli.main(args) == 0
        assert unicodedata.normalize("NFC", name) in capsys.readouterr().out
        picture.unlink()


@pytest.mark.parametrize("name", ["a\nb", "x@hflip", ".."])
def test_a_bad_file_name_is_one_line(tmp_path: Path, fails: Fails, name: str) -> None:
    write_pictures(tmp_path / "data", ["good", name])
    line = fails(encode.main, encode_args(tmp_path / "data", tmp_path / "s.zarr"))
    assert f"{name!r} cannot be" in line
    assert "rename that file" in line
    assert not (tmp_path / "s.zarr").exists()
