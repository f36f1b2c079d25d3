"""The networks: shapes, strides, torchvision's weights, and outputs independent of the batch."""

import dataclasses

import pytest
import torch

from latent_store.errors import CheckpointError, LatentStoreError
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.selection.gate import gumbel_noise
from training.tasks.registry import build_network

SMALL = {"backbone": "resnet18", "aspp_width": 16}


def latents(batch: int = 2, channels: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, 4, 8, generator=generator).mul(2).round()


def make_network(**config) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkConfig(**(SMALL | {"latent_channels": 24} | config)))


@pytest.mark.parametrize("selection", ["none", "dynamic", "static"])
@pytest.mark.parametrize("transform", ["deconv", "res"])
def test_latent_networks_give_maps_at_sixteen_times_the_grid(selection, transform) -> None:
    channels = (5, 3, 9) if selection == "static" else None
    network = make_network(selection=selection, transform=transform, channels=channels).eval()
    pooled_BC = torch.rand(2, 24)
    outputs = network(latents(channels=network.config.input_channels), pooled_BC)
    assert outputs["logits"].shape == (2, 19, 64, 128)
    assert outputs["features"].shape == (2, 64, 16, 32)
    assert ("gate" in outputs) == (selection == "dynamic")
    if selection == "dynamic":
        assert outputs["gate"].shape == outputs["gate_probability"].shape == (2, 24)


def test_pixel_networks_give_maps_at_full_size_and_the_stems_features() -> None:
    network = make_network(domain="pixel").eval()
    x_BCHW = torch.rand(2, 3, 64, 128)
    outputs = network(x_BCHW)
    assert outputs["logits"].shape == (2, 19, 64, 128)
    assert outputs["features"].shape == (2, 64, 16, 32)
    assert torch.equal(outputs["features"], network.stem(x_BCHW))
    assert not (outputs["features"] < 0).any()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("entry", ["layer1", "layer2"])
def test_behind_an_entry_lies_the_rest_of_the_teacher(backbone: str, entry: str) -> None:
    shape = {"backbone": backbone, "aspp_width": 8, "num_classes": 3}
    teacher = build_network(NetworkConfig(domain="pixel", **shape)).eval()
    network = build_network(NetworkConfig(entry=entry, latent_channels=8, **shape)).eval()
    own = network.tail.state_dict()
    network.tail.load_state_dict({k: v for k, v in teacher.tail.state_dict().items() if k in own})
    x_BCHW = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        features_BCHW = teacher.stem(x_BCHW)
        for stage in find_backbone(backbone).stages_before(entry):
            features_BCHW = getattr(teacher.tail, stage)(features_BCHW)
        given = network.transformed(torch.zeros(1, 8, 4, 8))["features"]
        assert given.shape == features_BCHW.shape
        logits_BKHW = network.tail(features_BCHW, (64, 128))["logits"]
        torch.testing.assert_close(logits_BKHW, teacher(x_BCHW)["logits"])


@pytest.mark.parametrize("config", [{"domain": "pixel"}, {"selection": "dynamic"}, {}])
def test_an_image_is_segmented_the_same_alone_and_in_a_batch(config) -> None:
    network = make_network(**config).eval()
    pixel = network.config.domain == "pixel"
    inputs = (torch.rand(3, 3, 64, 64),) if pixel else (latents(3), torch.rand(3, 24))
    with torch.no_grad():
        together = network(*inputs)["logits"][1:2]
        alone = network(*(value[1:2] for value in inputs))["logits"]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_gate_switches_channels_off() -> None:
    network = make_network(selection="dynamic").eval()
    with torch.no_grad():
        network.gate.logits.weight.zero_()
        network.gate.logits.bias.zero_()
        network.gate.logits.bias[2 * 4 + 1] = 1.0  # only channel 4 is on
    other = latents()
    other[:, 5] += 3
    pooled_BC = torch.rand(2, 24)
    outputs = network(latents(), pooled_BC)
    assert outputs["gate"].sum(1).tolist() == [1, 1]
    assert torch.equal(outputs["features"], network(other, pooled_BC)["features"])
    other[:, 4] += 3
    assert not torch.equal(outputs["features"], network(other, pooled_BC)["features"])


def test_the_loss_reaches_the_gate() -> None:
    network = make_network(selection="dynamic")
    noise_BC2 = gumbel_noise(0, 0, [0, 1], 24)
    network(latents(), torch.rand(2, 24), noise_BC2=noise_BC2)["logits"].square().sum().backward()
    assert network.gate.hidden.weight.grad.abs().sum() > 0


def test_statistics_scale_input_and_output() -> None:
    network = make_network().eval()
    before = network(latents())["features"]
    network.set_feature_statistics(torch.full((64,), 3.0), torch.full((64,), 0.5))
    torch.testing.assert_close(network(latents())["features"], before * 0.5 + 3)
    network.set_latent_statistics(torch.full((24,), 1.5))
    assert network.latent_scale_C.unique().tolist() == [0.5]


def test_the_auxiliary_head_works_in_training_only() -> None:
    network = make_network(auxiliary_head=True)
    assert network(latents())["auxiliary_logits"].shape == (2, 19, 64, 128)
    assert "auxiliary_logits" not in network.eval()(latents())


def test_wrong_inputs_are_refused() -> None:
    network = make_network(selection="static", channels=(3, 1))
    with pytest.raises(ValueError, match=r"takes 2 channels \(static selection\), got 24"):
        network(latents())
    with pytest.raises(ValueError, match="needs pooled_BC"):
        make_network(selection="dynamic").eval()(latents())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "vgg16"}, "backbone must be one of resnet18.*, mobilenet_v2, .*got 'vgg16'"),
        (
            {"selection": "static"},
            "selection static names its channels; got selection 'static' with channels None",
        ),
        (
            {"channels": (1,)},
            "selection none names no channels; got selection 'none' with channels",
        ),
        ({"domain": "pixel", "selection": "dynamic"}, "pixels have no channels to select"),
        ({"domain": "pixel", "entry": "layer1"}, "stem with --domain pixel, got 'layer1'"),
        ({"gate_bias": "often"}, "--gate_bias must be neutral"),
    ],
)
def test_contradictory_configs_are_refused(values, message) -> None:
    with pytest.raises(LatentStoreError, match=message):
        NetworkConfig(**values)


def test_config_survives_plain_types() -> None:
    config = NetworkConfig(selection="static", channels=(4, 2, 7))
    values = config.to_dict()
    assert values["channels"] == [4, 2, 7]
    assert NetworkConfig.from_dict(values) == config
    with pytest.raises(CheckpointError, match="does not know: depth; update the package"):
        NetworkConfig.from_dict(values | {"depth": 3})


def test_every_field_is_documented() -> None:
    for field in dataclasses.fields(NetworkConfig):
        assert f"{field.name}:" in NetworkConfig.__doc__
