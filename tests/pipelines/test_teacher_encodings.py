"""`encode-to-store --teacher_dtype`: what it stores, and that one component has one encoding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store.codec.pictures import image_to_tensor, pad_image
from latent_store.format.feature_encoding import BITROUND, KEEPBITS
from latent_store.storage.location import Location
from latent_store.tools import verify as integrity
from pipelines import encode
from tests.conftest import TinyStore, encode_args, without_codec
from tests.latent_store.format.test_feature_encoding import CORE_CODECS, array_codecs
from training.networks.network_config import NetworkConfig
from training.tasks.classes import CITYSCAPES_CLASSES
from training.tasks.registry import build_network
from training.trainer.checkpoints import load_network, save_checkpoint

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def relu(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    """A store of the features of a ResNet, which are behind a ReLU, and of no latents."""
    root = tmp_path_factory.mktemp("relu")
    config = NetworkConfig(domain="pixel", backbone="resnet18", aspp_width=8, num_classes=19)
    meta = {"kind": "teacher", "dataset": "cityscapes", "class_names": list(CITYSCAPES_CLASSES)}
    save_checkpoint(root / "teacher.pt", build_network(config), meta=meta)
    store = TinyStore(url=root / "s.zarr", data_root=scene_root, teacher=root / "teacher.pt")
    assert encode.main(teacher_args(store, store.url)) == 0
    return store


def teacher_args(store: TinyStore, url: Path, *more: str) -> list[str]:
    """Encodes the first validation scenes' features, and no latents."""
    args = encode_args(TinyStore(url=url, data_root=store.data_root, teacher=store.teacher), "val")
    return [*without_codec(args), *more]


@pytest.fixture
def rounded(relu: TinyStore, tmp_path: Path) -> Path:
    """A store whose features are bit-rounded."""
    url = tmp_path / "rounded.zarr"
    more = ("--teacher_dtype", BITROUND, "--max_samples", "2")
    assert encode.main(teacher_args(relu, url, *more)) == 0
    return url


def test_rounded_features_are_near_the_quantised_ones(rounded: Path, relu: TinyStore) -> None:
    reader = latent_store.open(rounded)["cityscapes/val"].teacher()
    assert reader.encoding.keepbits == KEEPBITS
    assert reader.array("features").dtype == np.float16
    other = latent_store.open(relu.url)["cityscapes/val"].teacher()
    assert str(other.encoding) == "uint8"
    expected = other.read([0, 1])
    step = other._column("feature_scale", [0, 1])[:, :, None, None]
    # Half a step of the one, half a unit of the last kept bit of the other.
    bound = 0.501 * step + (expected + step) * 2.0 ** -(KEEPBITS + 1)
    assert (np.abs(reader.read([0, 1]) - expected) <= bound).all()
    foreign = {name: names - CORE_CODECS for name, names in array_codecs(rounded).items()}
    assert {name: names for name, names in foreign.items() if names} == {}
    assert list(integrity.verify(Location(rounded))) == []


def test_features_of_a_linear_layer_keep_their_sign(
    tiny_store: TinyStore, tmp_path: Path, fails: Fails
) -> None:
    reader = latent_store.open(tiny_store.url)["cityscapes/val"].teacher()
    assert reader.encoding.name == BITROUND
    found = reader.read([0])[0]
    picture = next(iter(sorted((tiny_store.data_root / "leftImg8bit/val").glob("*/*.png"))))
    x_BCHW = image_to_tensor(pad_image(np.asarray(Image.open(picture))))
    with torch.inference_mode():
        expected = load_network(tiny_store.teacher).network.stem(x_BCHW)[0].numpy()
    _, height, width = expected.shape
    np.testing.assert_allclose(found[:, :height, :width], expected, rtol=0.05, atol=1e-4)
    assert (found < 0).mean() > 0.1
    line = fails(encode.main, teacher_args(tiny_store, tmp_path / "s", "--teacher_dtype", "uint8"))
    assert "may be negative, those of a layer without ReLU behind it, cannot be stored" in line
    assert not (tmp_path / "s/cityscapes").exists()


def test_one_component_has_one_encoding(
    rounded: Path, relu: TinyStore, fails: Fails, capsys: Any
) -> None:
    for asked in ("uint8", "float16"):
        line = fails(encode.main, teacher_args(relu, rounded, "--teacher_dtype", asked))
        assert f"holds features as float16-bitround ({KEEPBITS} bits), --teacher_dtype is" in line
        assert f"is {asked}: one component has one encoding; leave the flag out, or enc" in line
    # Without the flag an append takes what is there.
    assert encode.main(teacher_args(relu, rounded)) == 0
    reader = latent_store.open(rounded)["cityscapes/val"].teacher()
    assert reader.rows.tolist() == [0, 1, 2, 3]
    assert reader.encoding.name == BITROUND


def test_features_without_attributes_are_what_their_dtype_says(
    relu: TinyStore, tmp_path: Path, fails: Fails
) -> None:
    """Stores from before the attributes: uint8 and float16 were all there was."""
    url = shutil.copytree(relu.url, tmp_path / "copy.zarr")
    split = latent_store.open(url)["cityscapes/val"]
    path = url / split.teacher().group.path / "zarr.json"
    path.write_text(path.read_text().replace('"feature_encoding"', '"older"'))
    line = fails(encode.main, teacher_args(relu, url, "--teacher_dtype", "float16"))
    assert "holds features as uint8, --teacher_dtype is float16" in line
    assert encode.main(teacher_args(relu, url, "--teacher_dtype", "uint8")) == 0
