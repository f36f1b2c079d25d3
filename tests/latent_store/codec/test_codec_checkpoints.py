"""Checkpoints: every form that is accepted, and one clear line for each that is not."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from latent_store.codec import checkpoints, codec_from_bytes, codec_from_store, load_codec, stock
from latent_store.codec.families.base import CodecFamily
from latent_store.codec.families.registry import FAMILIES
from latent_store.errors import CheckpointError, IdentityError, IntegrityError
from latent_store.format.schema import CodecSpec
from latent_store.storage import records
from tests.latent_store.codec.made_codec import CODECS, STOCK, make_model, save

State = dict[str, Tensor]
Change = Callable[[State], Any]


@pytest.fixture(scope="session", params=list(STOCK))
def small_checkpoint(request: pytest.FixtureRequest) -> bytes:
    """The checkpoint file of a small model of each kind."""
    return save(make_model(8, 12, request.param).state_dict())


@pytest.fixture
def state(small_checkpoint: bytes) -> State:
    return torch.load(io.BytesIO(small_checkpoint), weights_only=True)


def half(state: State) -> State:
    """Convolution and GDN parameters in half precision, as the shared codecs have them."""
    parameters = (".weight", ".bias", ".beta", ".gamma")
    return {k: v.half() if k.endswith(parameters) else v for k, v in state.items()}


def old_names(state: State) -> State:
    """Key names of CompressAI's older releases, trained with DataParallel."""
    pattern = re.compile(r"^entropy_bottleneck\.(matrices|biases|factors)\.(\d)$")
    short = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    rename = {k: pattern.sub(lambda m: f"entropy_bottleneck.{short[m[1]]}{m[2]}", k) for k in state}
    return {f"module.{rename[k]}": v for k, v in state.items()}


FORMS: dict[str, Change] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "network": lambda state: {"network": state},
    "nested": lambda state: {"epoch": 1, "state_dict": {"model_state_dict": state}},
    "old names": old_names,
}


@pytest.mark.parametrize("wrap", FORMS.values(), ids=FORMS.keys())
def test_wrapped_and_renamed_state_dicts(state: State, wrap: Change) -> None:
    plain, wrapped = codec_from_bytes(save(state)), codec_from_bytes(save(wrap(state)))
    assert wrapped.tables.sha256 == plain.tables.sha256
    for mine, theirs in zip(
        wrapped.model.state_dict().values(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_in_the_older_file_format(state: State) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    assert codec_from_bytes(buffer.getvalue()).spec.channels == 12


def test_half_precision_parameters_are_widened(state: State) -> None:
    codec = codec_from_bytes(save(half(state)))
    assert all(p.dtype == torch.float32 for p in codec.model.parameters())
    weight = state["g_a.0.weight"].half().float()
    assert torch.equal(codec.model.g_a[0].weight, weight)


def test_what_a_codec_says_of_itself(small_checkpoint: bytes) -> None:
    digest = hashlib.sha256(small_checkpoint).hexdigest()
    spec = codec_from_bytes(small_checkpoint).spec
    assert spec.codec_id == f"{spec.architecture}-{digest[:8]}"
    assert spec.y_hat_steps == {"bmshj2018-hyperprior": 1, "mbt2018-mean": 32}[spec.architecture]
    assert spec.weights_sha256 == digest
    assert (spec.channels, spec.hyper_channels) == (12, 8)
    assert (spec.source, spec.quality, spec.metric) == ("file", None, None)
    assert spec.encoder_dtype == "float32"


def without(*keys: str) -> Change:
    return lambda state: {k: v for k, v in state.items() if k not in keys}


def with_value(key: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda state: {**state, key: change(state[key])}


GAUSSIAN = "gaussian_conditional"
BOUND = "entropy_bottleneck.likelihood_lower_bound.bound"
CONTENTS: dict[str, tuple[Change, str]] = {
    "missing": (
        without("h_s.0.bias"),
        (
            r"holds another architecture, not \S+ \((Mean)?ScaleHyperprior\): 1 keys "
            r"missing \(first h_s.0.bias\), 0 keys unexpected; give a checkpoint of that model"
        ),
    ),
    "unexpected": (
        lambda state: {**state, "x.y": torch.ones(1)},
        r"0 keys missing, 1 keys unexpected \(first x.y\); give a checkpoint of that model",
    ),
    "shape": (
        with_value("h_a.0.weight", lambda w: w[:4]),
        r"h_a.0.weight is \(4, 12, 3, 3\), expected \(8, 12, 3, 3\)",
    ),
    "no last convolution": (
        without("g_a.6.weight"),
        r"not bmshj2018-hyperprior .* keys missing \(first g_a.6.weight\), 0 keys unexpected",
    ),
    "no codec": (
        lambda _: {"conv1.weight": torch.ones(1)},
        r"holds no image codec \(its first key is conv1.weight\)",
    ),
    "never updated": (
        with_value(f"{GAUSSIAN}._quantized_cdf", lambda t: t[:0, :0]),
        (
            r"has no entropy tables \(gaussian_conditional._quantized_cdf is torch.int32 "
            r"\(0, 0\)\); call model.update\(\) once after training and save it again"
        ),
    ),
    "one table missing": (
        with_value("entropy_bottleneck._cdf_length", lambda t: t[:0]),
        r"has no entropy tables \(entropy_bottleneck._cdf_length is torch.int32 \(0,\)\)",
    ),
    "zeroed table": (
        with_value("entropy_bottleneck._quantized_cdf", lambda t: t * 0),
        "entropy table 0 of z does not rise from 0 to 65536",
    ),
    "not finite": (
        with_value("g_a.0.bias", lambda b: b * torch.nan),
        "has values in g_a.0.bias that are not finite; train or copy it again",
    ),
    "half bound": (
        with_value(BOUND, lambda b: b.half()),
        (
            r"has another entropy_bottleneck.likelihood_lower_bound.bound than a fresh model "
            r"\(\(1,\) starting with \[0.0\], expected \(1,\) .*; keep buffers in float32"
        ),
    ),
    "half pedestal": (
        with_value("g_a.1.beta_reparam.pedestal", lambda p: p.half()),
        "has another g_a.1.beta_reparam.pedestal than a fresh model",
    ),
    "half scale table": (
        with_value(f"{GAUSSIAN}.scale_table", lambda t: t.half()),
        "has another gaussian_conditional.scale_table than a fresh model",
    ),
    "offset": (
        with_value(f"{GAUSSIAN}._offset", lambda t: torch.full_like(t, -(2**31))),
        "the entropy table y_offset has numbers of type int32, or too large ones",
    ),
    "wide offset": (
        with_value("entropy_bottleneck._offset", lambda t: t.long() + 2**32),
        r"has no entropy tables \(entropy_bottleneck._offset is torch.int64 \(8,\)\)",
    ),
    "lengths": (
        with_value(f"{GAUSSIAN}._cdf_length", lambda t: torch.full_like(t, 2**31 - 1)),
        "entropy table 0 of y does not rise from 0 to 65536 over its length of 2147483647",
    ),
    "one axis": (
        with_value(f"{GAUSSIAN}._quantized_cdf", lambda t: t.flatten()),
        r"entropy tables of y have shapes \(200512,\)",
    ),
    "infinite when narrowed": (
        with_value("h_s.0.weight", lambda w: w.double() * 1e300),
        "has values in h_s.0.weight that are not finite",
    ),
    "whole numbers": (
        with_value("g_a.0.weight", lambda w: w.int()),
        "has g_a.0.weight as torch.int32, a fresh model as torch.float32",
    ),
    "complex": (
        with_value("g_a.0.bias", lambda b: b.to(torch.complex64)),
        r"has 'g_a.0.bias' as torch.complex64 \[8\], which \d+ bytes of plain numbers cannot be",
    ),
    "elsewhere": (
        with_value("g_a.0.bias", lambda b: b.to("meta")),
        r"has 'g_a.0.bias' as torch.float32 \[8\], which \d+ bytes of plain numbers cannot be",
    ),
    "one number a billion times": (
        with_value("g_a.0.bias", lambda b: b[:1].expand(10**9)),
        r"has 'g_a.0.bias' as torch.float32 \[1000000000\], which \d+ bytes of plain numbers",
    ),
    "a million channels of nothing": (
        lambda state: {
            **state,
            "g_a.0.weight": torch.zeros(10**6, 0, 5, 5),
            "g_a.6.weight": torch.zeros(10**6, 0, 5, 5),
        },
        "has layers of 1000000 and 1000000 channels, but no weights of so many",
    ),
    "a hyper decoder of nothing": (
        lambda state: {
            **state,
            "g_a.0.weight": torch.zeros(1, 3, 5, 5),
            "g_a.6.weight": torch.zeros(10**5, 1, 5, 5),
            "h_s.4.weight": torch.zeros(2 * 10**5, 1, 1, 1),
        },
        "has layers of 1 and 100000 channels, but no weights of so many",
    ),
    "a key of two lines": (
        lambda state: {**state, "g_a.\n\x1b[31m": torch.ones(1)},
        r"has 'g_a.\\n\\x1b\[31m' as torch.float32",
    ),
    "half a key": (
        lambda state: {**state, "entropy_bottleneckx": torch.ones(1)},
        "has keys that no codec has",
    ),
    "half scale bound": (
        with_value(f"{GAUSSIAN}.lower_bound_scale.bound", lambda b: b.half()),
        "has another gaussian_conditional.lower_bound_scale.bound than a fresh model",
    ),
}


@pytest.mark.parametrize(("change", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_contents_that_cannot_be_right(state: State, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        codec_from_bytes(save(change(state)))
    assert "\n" not in str(caught.value)


def test_state_dicts_that_hold_themselves(state: State) -> None:
    endless: dict[str, Any] = {"epoch": 1}
    endless["state_dict"] = endless
    deep: dict[str, Any] = state
    for _ in range(100):
        deep = {"state_dict": deep}
    for content in (endless, deep):
        with pytest.raises(CheckpointError, match=r"holds a dict with the keys .*state_dict, not"):
            codec_from_bytes(save(content))


def test_a_packed_file_that_grows_when_it_is_read() -> None:
    plain, packed = io.BytesIO(save({"a": torch.zeros(10**6)})), io.BytesIO()
    with (
        zipfile.ZipFile(plain) as whole,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"\(\d+ bytes: its entries are larger than the file"):
        codec_from_bytes(packed.getvalue())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("FactorizedPrior", r"bmshj2018-factorized \(FactorizedPrior\), not bmshj2018-hyperprior"),
        (
            "JointAutoregressiveHierarchicalPriors",
            (
                r"an autoregressive codec \(mbt2018 or cheng2020\), whose elements are decoded one "
                "after the other, so that no channel has bits of its own; give a checkpoint of bmsh"
            ),
        ),
    ],
)
def test_other_architectures_are_named(tmp_path: Path, name: str, found: str) -> None:
    stock.ScaleHyperprior  # noqa: B018  (the door: without it all of CompressAI is imported)
    from compressai.models import google as models

    path = tmp_path / "other.pth.tar"
    path.write_bytes(save(getattr(models, name)(8, 12).state_dict()))
    with pytest.raises(CheckpointError, match=rf"other\.pth\.tar holds {found}"):
        load_codec(checkpoint=path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, small_checkpoint: bytes, kept: float) -> None:
    path = tmp_path / "codec.pth.tar"
    end = kept if isinstance(kept, int) else int(len(small_checkpoint) * kept)
    path.write_bytes(small_checkpoint[:end])
    message = rf"codec\.pth\.tar is no checkpoint of plain tensors, or it was truncated \({end} by"
    with pytest.raises(CheckpointError, match=message):
        load_codec(checkpoint=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, world", "is no checkpoint of plain tensors, or it was truncated"),
        (save(torch.ones(3)), "holds a Tensor, not a state dict; save model.state_dict"),
        (save({"epoch": 3, "lr": 0.1}), "holds a dict with the keys epoch, lr, not a state dict"),
        (save({}), "holds an empty dict, not a state dict"),
        (save(SimpleNamespace(a=1)), "holds types.SimpleNamespace beside tensors, and objects"),
    ],
)
def test_what_is_no_state_dict(content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        codec_from_bytes(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_type_that_is_not_loaded_is_named(state: State, *, zipped: bool) -> None:
    data = io.BytesIO()
    content = {"state_dict": state, "args": argparse.Namespace(epochs=3)}
    torch.save(content, data, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as error:
        codec_from_bytes(data.getvalue())
    assert "the checkpoint holds argparse.Namespace beside tensors" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_name_with_a_hash_is_held_to_it(tmp_path: Path, small_checkpoint: bytes) -> None:
    digest = hashlib.sha256(small_checkpoint).hexdigest()
    good = tmp_path / f"small-{digest[:8]}.pth.tar"
    good.write_bytes(small_checkpoint)
    assert load_codec(checkpoint=good).spec.weights_sha256 == digest
    assert load_codec(checkpoint=str(good), sha256=digest.upper()).spec.channels == 12
    bad = tmp_path / "small-0123abcd.pth.tar"
    bad.write_bytes(small_checkpoint)
    message = rf"by its name, should have sha256 0123abcd, but its \d+ bytes have {digest[:8]}; it"
    with pytest.raises(CheckpointError, match=message):
        load_codec(checkpoint=bad)
    with pytest.raises(CheckpointError, match=rf"should have sha256 {'0' * 64}, .*{digest}"):
        load_codec(checkpoint=good, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="'xyz' is no sha256; give at least its first 8 dig"):
        load_codec(checkpoint=good, sha256="xyz")
    with pytest.raises(CheckpointError, match=r"there is no codec checkpoint .*none\.pth"):
        load_codec(checkpoint=tmp_path / "none.pth")


def test_one_source_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a codec comes from one source, got none; give one"):
        load_codec()
    with pytest.raises(CheckpointError, match="got checkpoint, quality; give one of `codec_check"):
        load_codec(checkpoint=tmp_path / "a", quality=1)


def test_the_expected_identity_is_required(small_checkpoint: bytes, state: State) -> None:
    spec = codec_from_bytes(small_checkpoint, source="zoo").spec
    expected = dataclasses.replace(spec, quality=3, metric="mse")
    assert codec_from_bytes(small_checkpoint, expected=expected).spec == expected
    with pytest.raises(IdentityError, match="the checkpoint has weights_sha256"):
        codec_from_bytes(save(half(state)), expected=expected)
    other = dataclasses.replace(expected, cdf_sha256="0")
    with pytest.raises(IdentityError, match="the checkpoint has cdf_sha256"):
        codec_from_bytes(small_checkpoint, expected=other)


def test_steps_are_a_power_of_two_and_the_kinds_own(small_checkpoint: bytes) -> None:
    spec = codec_from_bytes(small_checkpoint).spec
    for steps in (3, 48):
        with pytest.raises(IntegrityError, match=f"has {steps} y_hat_steps, which must be a power"):
            dataclasses.replace(spec, y_hat_steps=steps)
        attrs = {**spec.to_attrs(), "y_hat_steps": steps}
        with pytest.raises(IntegrityError, match=r"codec\.json .* must be a power of two"):
            records.typed(CodecSpec, attrs, "codec.json", "encode again")
    other = dataclasses.replace(spec, y_hat_steps=64)
    with pytest.raises(
        IdentityError, match=r"is noted with 64 y_hat_steps, and its kind, .* has (1|32):"
    ):
        codec_from_bytes(small_checkpoint, expected=other)


def test_an_architecture_that_this_release_lacks_is_named(small_checkpoint: bytes) -> None:
    spec = codec_from_bytes(small_checkpoint).spec
    newer = dataclasses.replace(spec, architecture="newer-2030")
    with pytest.raises(CheckpointError, match="of architecture newer-2030, this release has bmshj"):
        codec_from_bytes(small_checkpoint, expected=newer)


def test_from_a_store(small_checkpoint: bytes) -> None:
    spec = codec_from_bytes(small_checkpoint).spec
    # The two methods of a store that are needed here; the store has tests of its own.
    store: Any = SimpleNamespace(
        codec=lambda codec_id: spec, codec_checkpoint=lambda codec_id: small_checkpoint
    )
    assert codec_from_store(store).spec == spec


def test_the_demo_folder_holds_one_verified_codec(
    tmp_path: Path, small_checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DEMO_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="holds 0 demo codecs, expected 1"):
        load_codec(demo=True)
    digits = hashlib.sha256(small_checkpoint).hexdigest()[:8]
    path = tmp_path / f"demo-{digits}.pth.tar"
    path.write_bytes(small_checkpoint)
    assert load_codec(demo=True).spec.source == "demo"
    path.write_bytes(small_checkpoint + b" ")
    with pytest.raises(CheckpointError, match=f"should have sha256 {digits}"):
        load_codec(demo=True)
    path.rename(tmp_path / "demo.pth.tar")
    with pytest.raises(CheckpointError, match=r"holds 0 demo codecs, expected 1 \(\*-xxxxxxxx\."):
        load_codec(demo=True)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_zoo_hashes_are_those_of_its_names(family: CodecFamily) -> None:
    assert list(family.zoo_sha256) == ["mse", "ms-ssim"]
    for metric, prefixes in family.zoo_sha256.items():
        urls = stock.model_urls[family.name][metric]
        assert [url[-16:-8] for url in urls.values()] == list(prefixes)


@pytest.fixture
def architecture(small_checkpoint: bytes) -> str:
    return codec_from_bytes(small_checkpoint).spec.architecture


@pytest.fixture
def zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_checkpoint: bytes, architecture: str
) -> Path:
    """A zoo of one codec behind file:// URLs, and an empty cache."""
    digits = hashlib.sha256(small_checkpoint).hexdigest()[:8]
    source = tmp_path / f"{architecture}-1-{digits}.pth.tar"
    source.write_bytes(small_checkpoint)
    urls = {architecture: {"mse": {1: source.as_uri(), 2: "http://127.0.0.1:9/none"}}}
    monkeypatch.setattr(stock, "model_urls", urls)
    family = type(FAMILIES[architecture])
    monkeypatch.setattr(family, "zoo_sha256", {"mse": (digits, "0" * 8)})
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return source


def test_the_zoo_is_downloaded_once_and_verified(
    zoo: Path, tmp_path: Path, architecture: str
) -> None:
    load = functools.partial(load_codec, architecture=architecture)
    spec = load(quality=1).spec
    assert (spec.source, spec.quality, spec.metric) == ("zoo", 1, "mse")
    assert spec.architecture == architecture
    zoo.unlink()
    assert load(quality=1).spec == spec
    cached = tmp_path / "hub" / "checkpoints" / zoo.name
    cached.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"delete it to download it again\) should have sha2"):
        load(quality=1)


def test_what_the_zoo_cannot_give(zoo: Path, architecture: str) -> None:
    load = functools.partial(load_codec, architecture=architecture)
    with pytest.raises(CheckpointError, match=r"cannot download .*; give a local file with `cod"):
        load(quality=2)
    with pytest.raises(CheckpointError, match=f"has {architecture} in qualities 1 to 8 for"):
        load(quality=9)
    with pytest.raises(CheckpointError, match="not quality 1 for psnr; choose one of these"):
        load(quality=1, metric="psnr")
    zoo.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"is not the file with sha256 .*invalid hash value"):
        load(quality=1)
    with pytest.raises(CheckpointError, match=r"asked for is of architecture mbt2018, this rel"):
        load_codec(quality=1, architecture="mbt2018")


@pytest.mark.skipif(not CODECS.exists(), reason="no ../shared/codecs here")
def test_the_shared_codecs_load() -> None:
    path = min(CODECS.glob("*.pth.tar"))
    codec = load_codec(checkpoint=path)
    assert codec.spec.codec_id.endswith(path.name[-16:-8])
    assert (codec.spec.channels, codec.spec.hyper_channels) == (192, 128)
