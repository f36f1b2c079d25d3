"""The backbones: strides, torchvision's weights, and that others ask them for their shapes."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torchvision import models

from latent_store.errors import CheckpointError
from training.networks.backbones import BACKBONES, Backbone, find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork
from training.networks.stages import Stem
from training.tasks.registry import build_network
from training.trainer.checkpoints import LoadedNetwork
from training.trainer.initialise import load_pretrained, start_from_teacher

OTHER = {"segmentation": "detection", "detection": "segmentation"}
SMALL = {"backbone": "resnet18", "aspp_width": 16, "latent_channels": 24}


def make_network(**config) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkConfig(**(SMALL | config)))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("dilated", [True, False])
def test_a_backbone_has_the_strides_and_channels_that_it_says(name: str, *, dilated: bool) -> None:
    backbone = find_backbone(name)
    with torch.device("meta"):
        stem, stages = backbone.build(dilated=dilated)
        features_BCHW = stem(torch.empty(1, 3, 128, 256))
        assert features_BCHW.shape == (1, backbone.stem_channels, 32, 64)
        for stage, channels, stride in zip(
            stages, backbone.stage_channels, (4, 8, 16, 32), strict=True
        ):
            stride = min(stride, backbone.output_stride) if dilated else stride
            features_BCHW = stages[stage](features_BCHW)
            assert features_BCHW.shape == (1, channels, 128 // stride, 256 // stride)
    assert tuple(stages) == backbone.stage_names
    assert backbone.output_stride == (8 if name in ("resnet50", "resnet101") else 16)


def test_the_dilated_basic_blocks_see_what_the_strided_ones_saw() -> None:
    """À trous: every second position of the dilated map is the strided network's map."""
    torch.manual_seed(0)
    (ours, theirs) = (
        find_backbone("resnet18").build(dilated=dilated)[1]["layer4"].eval()
        for dilated in (True, False)
    )
    theirs.load_state_dict(ours.state_dict())
    x_BCHW = torch.randn(1, 256, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x_BCHW)[..., ::2, ::2], theirs(x_BCHW))


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_torchvisions_weights_load_into_stem_and_tail(prefix: str) -> None:
    torch.manual_seed(1)
    source = models.resnet18(weights=None).state_dict()
    network = make_network(domain="pixel")
    copied = load_pretrained(network, {prefix + k: v for k, v in source.items()})
    assert len(copied) == len([name for name in source if not name.startswith("fc.")])
    torch.testing.assert_close(network.tail.layer3[1].conv2.weight, source["layer3.1.conv2.weight"])
    latent = make_network()
    assert isinstance(latent, LatentNetwork)
    load_pretrained(latent, source)
    torch.testing.assert_close(latent.tail.layer1[0].bn1.weight, source["layer1.0.bn1.weight"])


def test_weights_of_another_resnet_are_refused() -> None:
    source = models.resnet34(weights=None).state_dict()
    network = make_network()
    with torch.device("meta"):
        wide = models.resnet50(weights=None).state_dict()
    with pytest.raises(CheckpointError, match=r"do not fit resnet18: layer1.0.conv1.weight"):
        load_pretrained(network, wide)
    with pytest.raises(CheckpointError, match=r"layer3.0.conv1.weight should be .*found nothing"):
        load_pretrained(network, {k: v for k, v in source.items() if not k.startswith("layer3")})


class Tiny(Backbone):
    """Five layers, with other channels and names than a ResNet's."""

    name = "tiny"
    stem_channels = 6
    stage_names = ("a", "b", "c", "d")
    stage_channels = (6, 8, 10, 12)
    output_stride = 16

    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        """Returns one convolution a stage."""
        channels = (self.stem_channels, *self.stage_channels)
        strides = (1, 2, 2, 1 if dilated else 2)
        stages = {
            name: nn.Conv2d(channels[i], channels[i + 1], 1, stride=stride)
            for i, (name, stride) in enumerate(zip(self.stage_names, strides, strict=True))
        }
        return Stem({"first": nn.Conv2d(3, self.stem_channels, 4, stride=4)}), stages


@pytest.fixture
def tiny() -> Iterator[None]:
    """One more backbone."""
    BACKBONES["tiny"] = Tiny()
    yield
    del BACKBONES["tiny"]


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_backbone_of_other_channels_is_known_to_nobody_else(tiny: None, task: str) -> None:
    shape = {"backbone": "tiny", "task": task, "fpn_width": 8, "box_head_width": 8}
    pixel = make_network(domain="pixel", **shape).eval()
    teacher = LoadedNetwork(
        network=pixel, config=pixel.config, meta={}, codec_bytes=None, sha256="0" * 64
    )
    valid = {"valid_B2": torch.tensor([[64, 128]])} if task == "detection" else {}
    outputs = pixel(torch.rand(1, 3, 64, 128), **valid)
    assert outputs["features"].shape == (1, 6, 16, 32)
    for transform in ("deconv", "res"):
        network = make_network(transform=transform, **shape)
        assert start_from_teacher(network, teacher) == []
        assert torch.equal(network.tail.c.weight, pixel.tail.c.weight)
        outputs = network.eval()(torch.zeros(1, 24, 4, 8), **valid)
        assert outputs["features"].shape == (1, 6, 16, 32)
    other = make_network(**shape | {"task": OTHER[task]})
    assert not set(start_from_teacher(other, teacher)) & set(Tiny.stage_names)
    assert torch.equal(other.tail.c.weight, pixel.tail.c.weight)
    state = {
        name: torch.ones_like(value)
        for name, value in pixel.tail.state_dict().items()
        if name.split(".")[0] in Tiny.stage_names
    }
    with pytest.raises(CheckpointError, match=r"do not fit tiny: first\.weight should be"):
        load_pretrained(pixel, state)
    assert len(load_pretrained(network, state)) == 8
    assert network.tail.b.weight.unique().tolist() == [1]
