"""Checkpoint files: what goes in comes out, and what is not ours is refused with a reason."""

import argparse
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latent_store.errors import CheckpointError, LatentStoreError
from tests.latent_store.codec.made_pickles import ENDLESS
from training.networks.network_config import NetworkConfig
from training.tasks.registry import build_network
from training.trainer.checkpoints import (
    DIGEST,
    export_safetensors,
    load_network,
    read_safetensors,
    read_state_dict,
    save_checkpoint,
)

META = {"kind": "network", "dataset": "cityscapes", "label": "none", "step": 12}


def make_network(seed: int = 0, **config) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(backbone="resnet18", aspp_width=8, **config))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, make_network(selection="dynamic"), meta=META, codec_bytes=b"\x00codec")
    return path


def test_what_goes_in_comes_out(saved: Path) -> None:
    network = make_network(selection="dynamic")
    loaded = load_network(saved)
    assert loaded.config == network.config
    assert loaded.codec_bytes == b"\x00codec"
    assert loaded.meta["dataset"] == "cityscapes"
    assert loaded.meta["ranking_id"] is None
    assert not loaded.network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[name]), name
    assert load_network(saved.read_bytes()).sha256 == loaded.sha256


def test_the_same_content_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "another-name.pt"
    network = make_network(selection="dynamic").to(memory_format=torch.channels_last)
    digest = save_checkpoint(other, network, meta=META, codec_bytes=b"\x00codec")
    assert other.read_bytes() == saved.read_bytes()
    assert load_network(saved).sha256 == digest
    assert load_network(saved).teacher_id == f"deeplabv3-resnet18-{digest[:8]}"


def test_loading_moves_nobodys_random_numbers(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_network(saved)
    assert torch.equal(torch.rand(3), expected)


def test_a_file_holds_tensors_and_plain_types_only(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    assert payload["codec_weights"].dtype == torch.uint8
    json.dumps([payload["config"], payload["meta"]])


def test_a_type_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    torch.save({"format": "any", "args": argparse.Namespace(epochs=3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt holds argparse\.Namespace beside tensors"):
        load_network(tmp_path / "a.pt")


def test_a_compiled_network_is_saved_under_its_own_names(tmp_path: Path) -> None:
    network = make_network()
    save_checkpoint(tmp_path / "c.pt", torch.compile(network), meta=META)
    assert load_network(tmp_path / "c.pt").config == network.config


def test_no_half_written_file_takes_the_place_of_a_whole_one(saved: Path, monkeypatch) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, make_network(), meta=META)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint file at .*nothing\.pt"):
        load_network(tmp_path / "nothing.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint .* truncated"):
        load_network(data[: int(share * len(data))])


def test_a_pickle_with_code_is_not_loaded() -> None:
    buffer = io.BytesIO()
    torch.save({"format": Path("x")}, buffer)
    with pytest.raises(CheckpointError, match=r"holds pathlib\.PosixPath beside tensors"):
        load_network(buffer.getvalue())


def test_a_codec_is_told_where_it_belongs() -> None:
    buffer = io.BytesIO()
    torch.save({"g_a.0.weight": torch.zeros(1)}, buffer)
    with pytest.raises(CheckpointError, match="weights of a codec go to --codec_checkpoint"):
        load_network(buffer.getvalue())


def test_a_foreign_file() -> None:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    with pytest.raises(CheckpointError, match="is not a latent-store-network file"):
        load_network(buffer.getvalue())


def test_a_newer_version(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True) | {"format_version": 9}
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    with pytest.raises(CheckpointError, match="format version 9, this version reads up to 1"):
        load_network(buffer.getvalue())


def test_weights_that_do_not_fit_their_config(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    payload["config"]["aspp_width"] = 16
    del payload[DIGEST]
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        load_network(buffer.getvalue())


WRONG = {
    "meta missing": {"meta": None},
    "meta a number": {"meta": 3},
    "kind": {"meta": {"kind": 3}},
    "class names": {"meta": {"class_names": 3}},
    "config a list": {"config": []},
    "classes": {"config": {"num_classes": "x"}},
    "too many classes": {"config": {"num_classes": 10**9}},
    "too many latent channels": {"config": {"latent_channels": 10**9}},
    "no latent channels": {"config": {"latent_channels": 0}},
    "too many numbers of channels": {"config": {"channels": [1] * 10**4}},
    "a layer wider than the file": {"config": {"aspp_width": 8192}},
    "a width that another task has": {"config": {"fpn_width": 10**9}},
    "a width that is none": {"config": {"anchor_size": 1.5}},
    "a long name": {"config": {"backbone": "x" * 10**5}},
    "a long setting": {"config": {"x" * 10**5: 1}},
    "a long format": {"format": "x" * 10**5},
    "dropout": {"config": {"dropout": float("nan")}},
    "selection": {"config": {"selection": ["x"]}},
    "state": {"state": 3},
    "codec": {"codec_weights": 3},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_contents_that_cannot_be_right(saved: Path, tmp_path: Path, change: dict) -> None:
    payload = torch.load(saved, weights_only=True)
    del payload[DIGEST]  # as in a file of an earlier version
    for name, value in change.items():
        payload[name] = payload[name] | value if isinstance(value, dict) else value
    torch.save(payload, tmp_path / "wrong.pt")
    with pytest.raises(LatentStoreError) as error:
        load_network(tmp_path / "wrong.pt")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "kind", ["a key of tuples", "one tensor many times", "a tensor of one number"]
)
def test_a_file_that_would_take_for_ever(tmp_path: Path, kind: str) -> None:
    (tmp_path / "endless.pt").write_bytes(ENDLESS[kind]())
    with pytest.raises(CheckpointError, match=r"endless\.pt cannot be read as a checkpoint"):
        load_network(tmp_path / "endless.pt")


def test_a_packed_file_that_grows_when_it_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_network(tmp_path / "packed.pt")


def test_another_kind(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a network, but a teacher is needed here"):
        load_network(saved, kind="teacher")


def test_meta_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="kind teacher or network; got"):
        save_checkpoint(tmp_path / "x.pt", make_network(), meta={"kind": "student"})
    with pytest.raises(CheckpointError, match="surprise"):
        save_checkpoint(tmp_path / "x.pt", make_network(), meta={"surprise": 1})


def test_safetensors_hold_the_same_weights(saved: Path, tmp_path: Path) -> None:
    loaded = load_network(saved)
    path = tmp_path / "last.safetensors"
    export_safetensors(path, loaded.network, meta=loaded.meta)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        assert json.loads(file.metadata()["config"]) == loaded.config.to_dict()
    assert state.keys() == loaded.network.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in loaded.network.state_dict().items())


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0x40
    return bytes(changed)


def test_a_flipped_bit_is_refused_or_changes_nothing(saved: Path) -> None:
    data = saved.read_bytes()
    whole = load_network(data)
    refused = 0
    for position in range(100, len(data), len(data) // 12):
        try:
            loaded = load_network(flipped(data, position))
        except CheckpointError:
            refused += 1
            continue
        assert (loaded.config, loaded.meta) == (whole.config, whole.meta)
        state = loaded.network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in whole.network.state_dict().items())
    assert refused > 8


def test_a_flipped_weight_is_named(saved: Path) -> None:
    data = saved.read_bytes()
    weight = load_network(data).network.state_dict()["tail.layer4.1.conv2.weight"]
    position = data.index(weight.numpy().tobytes()[:64])
    with pytest.raises(CheckpointError, match=r"was altered: its content has the sha256 .* copy"):
        load_network(flipped(data, position))


def test_a_file_without_a_digest_loads_as_before(saved: Path, tmp_path: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    assert len(payload.pop(DIGEST)) == 64
    older = tmp_path / "older.pt"
    torch.save(payload, older)
    assert load_network(older).meta == load_network(saved).meta


def test_a_flipped_bit_in_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    loaded = load_network(saved)
    path = tmp_path / "last.safetensors"
    export_safetensors(path, loaded.network, meta=loaded.meta)
    state, header = read_safetensors(path)
    assert state.keys() == loaded.network.state_dict().keys()
    assert json.loads(header["config"]) == loaded.config.to_dict()
    data = path.read_bytes()
    for position in (len(data) // 2, len(data) - 1, data.index(b"cityscapes"), 3):
        path.write_bytes(flipped(data, position))
        with pytest.raises(CheckpointError, match=r"was altered|is no safetensors file"):
            read_safetensors(path)
    save_file(state, path, metadata=header)
    assert read_safetensors(path)[1] == header


def test_foreign_state_dicts_are_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"model": {"conv1.weight": torch.ones(2)}, "epoch": 3}, path)
    assert list(read_state_dict(path)) == ["conv1.weight"]
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state_dict(path)
