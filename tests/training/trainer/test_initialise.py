"""Where weights start: teacher, another network, torchvision's weights; and fixed statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

import latent_store
from latent_store.errors import CheckpointError
from tests.conftest import HEIGHT, WIDTH, TinyStore
from training.data.store_source import SourceSpec, StoreSource
from training.networks.network_config import NetworkConfig
from training.tasks.annotations import PixelLabels
from training.tasks.registry import build_network
from training.trainer.checkpoints import LoadedNetwork, load_network, save_checkpoint
from training.trainer.initialise import (
    feature_statistics,
    set_statistics,
    start_from_network,
    start_from_pretrained,
    start_from_teacher,
)

CHANNELS = 12


def make_network(seed: int = 0, **config) -> torch.nn.Module:
    torch.manual_seed(seed)
    values = {"backbone": "resnet18", "aspp_width": 8, "latent_channels": CHANNELS}
    return build_network(NetworkConfig(**(values | config)))


def saved(tmp_path: Path, network: torch.nn.Module, kind: str = "network") -> LoadedNetwork:
    path = tmp_path / f"{kind}.pt"
    save_checkpoint(path, network, meta={"kind": kind})
    return load_network(path)


def test_the_tail_starts_from_the_teacher_and_nothing_else_does(tmp_path: Path) -> None:
    teacher = saved(tmp_path, make_network(seed=1, domain="pixel", auxiliary_head=True), "teacher")
    network = make_network()
    transform = network.transform.up1.weight.clone()
    start_from_teacher(network, teacher)
    expected = teacher.network.tail.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in network.tail.state_dict().items())
    assert torch.equal(network.transform.up1.weight, transform)
    pixel = make_network(domain="pixel")
    start_from_teacher(pixel, teacher)
    assert torch.equal(pixel.stem.conv1.weight, teacher.network.stem.conv1.weight)


def test_a_teacher_of_another_shape_is_refused(tmp_path: Path) -> None:
    teacher = saved(tmp_path, make_network(domain="pixel"), "teacher")
    for changed, message in (
        ({"aspp_width": 16}, "its aspp_width is 8, the network's 16; give --aspp_width 8"),
        ({"backbone": "resnet34"}, "its backbone is resnet18, the network's resnet34"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start_from_teacher(make_network(**changed), teacher)


@pytest.mark.parametrize("transform", ["deconv", "res"])
def test_a_static_network_takes_its_channels_share_of_a_dynamic_one(tmp_path, transform) -> None:
    dynamic = make_network(seed=1, selection="dynamic", transform=transform).eval()
    dynamic.set_latent_statistics(torch.rand(CHANNELS))
    channels = (7, 2, 9)
    static = make_network(selection="static", channels=channels, transform=transform).eval()
    fresh = start_from_network(static, saved(tmp_path, dynamic))
    if transform == "res":
        assert {name.split(".")[1] for name in fresh} == {"blocks1", "up1"}
        assert torch.equal(static.transform.up2.conv.weight, dynamic.transform.up2.conv.weight)
        return
    assert fresh == []
    y_hat_BCHW = torch.zeros(1, CHANNELS, 4, 4)
    y_hat_BCHW[:, list(channels)] = torch.randn(1, 3, 4, 4).round()
    with torch.no_grad():
        dynamic.gate.logits.bias[1::2] = 1e3  # everything on; all but three channels are zero
        whole = dynamic(y_hat_BCHW, torch.rand(1, CHANNELS))["logits"]
        torch.testing.assert_close(static(y_hat_BCHW[:, list(channels)])["logits"], whole)


def test_channels_are_matched_by_number_even_if_all_are_kept(tmp_path: Path) -> None:
    order = tuple(reversed(range(CHANNELS)))
    static = make_network(seed=1, selection="static", channels=order)
    network = make_network()
    start_from_network(network, saved(tmp_path, static))
    assert torch.equal(network.transform.up1.weight, static.transform.up1.weight.flip(0))


def test_a_gate_that_the_other_one_lacks_stays_fresh(tmp_path: Path) -> None:
    network = make_network(selection="dynamic")
    fresh = start_from_network(network, saved(tmp_path, make_network(seed=1)))
    assert fresh
    assert all(name.startswith("gate.") for name in fresh)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    few = saved(tmp_path, make_network(selection="static", channels=(1, 2)))
    with pytest.raises(CheckpointError, match=r"on 2 channels, which lack 10 of this one's 12 \("):
        start_from_network(make_network(), few)
    for changed, message in (
        ({"transform": "res"}, "network with transform deconv, this one has res"),
        ({"latent_channels": 192}, "network with latent_channels 12, this one has 192"),
        ({"domain": "pixel"}, "network with domain latent, this one has pixel"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start_from_network(make_network(**changed), few)


def test_a_file_of_torchvisions_weights(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, path)
    network = make_network()
    start_from_pretrained(network, str(path))
    assert torch.equal(network.tail.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    with pytest.raises(CheckpointError, match="no checkpoint file at"):
        start_from_pretrained(network, str(tmp_path / "nothing.pth"))


def test_a_file_of_another_tasks_teacher(tmp_path: Path) -> None:
    teacher = saved(tmp_path, make_network(seed=1, domain="pixel"), kind="teacher")
    boxes = {"task": "detection", "fpn_width": 8, "box_head_width": 8}
    network = make_network(seed=2, domain="pixel", **boxes)
    heads = {name: value.clone() for name, value in network.state_dict().items()}
    start_from_pretrained(network, str(tmp_path / "teacher.pt"))
    theirs = teacher.network.state_dict()
    for name, value in network.state_dict().items():
        shared = name.startswith(("stem.", "tail.layer"))
        assert torch.equal(value, (theirs if shared else heads)[name]), name
    other = make_network(domain="pixel", backbone="resnet34", **boxes)
    with pytest.raises(CheckpointError, match="give --backbone resnet18, or --pretrained none"):
        start_from_pretrained(other, str(tmp_path / "teacher.pt"))


def test_an_unreachable_hub_names_the_address_and_the_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"download https://.*resnet18.*give its path to"):
        start_from_pretrained(make_network(), "imagenet")


def test_statistics_are_the_stores(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    spec = SourceSpec(
        url=str(tiny_store.url),
        split="cityscapes/train",
        annotations=PixelLabels(),
        domain="latent",
        codec_id=store.codec().codec_id,
        teacher_id=store.teachers()[0],
    )
    source = StoreSource(spec)
    network = make_network(
        selection="dynamic", latent_channels=192, gate_pool="rms", backbone="mobilenet_v2"
    )
    set_statistics(network, source)
    rms_BC = source.latents.column("channel_rms", source.rows)
    expected = 1 / (np.sqrt((rms_BC**2).mean(0)) + 0.5)
    np.testing.assert_allclose(network.latent_scale_C.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(network.gate.input_mean_C.numpy(), rms_BC.mean(0), rtol=1e-5)
    assert float(network.gate.input_std_C.min()) == pytest.approx(0.05)
    features = source.teacher.read(source.rows)[:, :, : -(-HEIGHT // 4), : -(-WIDTH // 4)]
    mean, std = feature_statistics(source)
    np.testing.assert_allclose(mean.numpy(), features.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(std.numpy(), features.std((0, 2, 3)), rtol=1e-3, atol=1e-6)
    assert torch.equal(network.feature_mean_C, mean)


def test_a_static_network_has_its_own_channels_statistics(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    codec_id = store.codec().codec_id
    spec = SourceSpec(
        url=str(tiny_store.url),
        split="cityscapes/train",
        annotations=PixelLabels(),
        domain="latent",
        codec_id=codec_id,
    )
    whole = make_network(latent_channels=192)
    static = make_network(latent_channels=192, selection="static", channels=(100, 4))
    for network in (whole, static):
        set_statistics(network, StoreSource(spec))
    assert torch.equal(static.latent_scale_C, whole.latent_scale_C[[100, 4]])
    assert torch.equal(static.feature_std_C, torch.ones(64))  # no teacher: the scale stays 1
