"""The transforms: shapes, counts, and that integer latents train them."""

import dataclasses

import pytest
import torch

from latent_store.errors import LatentStoreError
from training.evaluation.complexity import count_macs, network_macs
from training.networks.network_config import NetworkConfig
from training.networks.transforms import ModuleDeconv, build_transform
from training.tasks.build import build_network

FEATURES = 64
KINDS = [("deconv", "igdn"), ("deconv", "relu"), ("res", "igdn")]


@pytest.mark.parametrize(("name", "activation"), KINDS)
@pytest.mark.parametrize("channels", [1, 16, 192])
def test_latents_at_a_sixteenth_become_features_at_a_quarter(name, activation, channels) -> None:
    transform = build_transform(name, channels, FEATURES, activation=activation)
    assert transform(torch.zeros(2, channels, 3, 5)).shape == (2, FEATURES, 12, 20)


@pytest.mark.parametrize(("name", "activation"), KINDS)
def test_a_few_steps_on_integer_latents_reduce_the_distillation_error(name, activation) -> None:
    torch.manual_seed(0)
    transform = build_transform(name, 16, FEATURES, activation=activation)
    y_hat_BCHW = (torch.randn(4, 16, 4, 4) * torch.linspace(0.2, 3, 16).view(-1, 1, 1)).round()
    y_hat_BCHW[0, 3, 1, 1] = 32  # as large as latents were seen
    scaled_BCHW = y_hat_BCHW / (y_hat_BCHW.square().mean((0, 2, 3), keepdim=True).sqrt() + 0.5)
    mixing = torch.randn(FEATURES, 16) / 4
    target_BCHW = torch.einsum("fc,bchw->bfhw", mixing, scaled_BCHW)
    target_BCHW = torch.nn.functional.interpolate(target_BCHW, scale_factor=4).relu()
    optimizer = torch.optim.Adam(transform.parameters(), lr=1e-3)
    errors = []
    for _ in range(12):
        error = (transform(scaled_BCHW) - target_BCHW).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


def test_first_outputs_are_of_order_one() -> None:
    torch.manual_seed(0)
    features_BCHW = ModuleDeconv(192, FEATURES)(torch.randn(2, 192, 8, 8))
    assert 0.5 < features_BCHW.std().item() < 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(LatentStoreError, match="--transform must be one of deconv, res"):
        build_transform("linear", 192, FEATURES)
    with pytest.raises(LatentStoreError, match="igdn or relu, got 'deconv' with 'gdn'"):
        build_transform("deconv", 192, FEATURES, activation="gdn")


def relu_deconv() -> torch.nn.Module:
    return build_transform("deconv", 192, FEATURES, activation="relu")


def test_module_deconv_has_the_papers_multiply_adds() -> None:
    macs = count_macs(relu_deconv(), (1, 192, 64, 128))
    assert round(macs.true / 1e9, 2) == 23.49
    assert round(macs.thop / 1e9, 2) == 93.95


def test_igdn_counts_as_a_1x1_convolution_and_thop_does_not_see_it() -> None:
    plain = count_macs(relu_deconv(), (1, 192, 64, 128))
    macs = count_macs(build_transform("deconv", 192, FEATURES), (1, 192, 64, 128))
    assert macs.true - plain.true == 256 * 256 * 128 * 256
    assert macs.thop == plain.thop


def test_module_res_has_the_multiply_adds_of_the_notes() -> None:
    macs = count_macs(build_transform("res", 192, FEATURES), (1, 192, 64, 128))
    assert round(macs.true / 1e9, 1) == 202.0
    assert round(macs.thop / 1e9, 1) == 199.3


def test_true_count_agrees_with_torchs_own() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    transform = build_transform("deconv", 8, FEATURES, activation="relu")
    with FlopCounterMode(display=False) as counter:
        transform(torch.zeros(1, 8, 4, 4))
    assert count_macs(transform, (1, 8, 4, 4)).true * 2 == counter.get_total_flops()


def test_a_networks_parts_add_up() -> None:
    macs = network_macs(NetworkConfig(backbone="resnet18", selection="dynamic"), 128, 256)
    assert set(macs.parts) == {"gate", "transform", "tail"}
    assert sum(macs.parts.values()) == macs.true
    pixel = network_macs(NetworkConfig(backbone="resnet18", domain="pixel"), 128, 256)
    assert set(pixel.parts) == {"stem", "tail"}
    assert pixel.parts["tail"] == macs.parts["tail"]


def test_a_detectors_products_are_those_of_its_layers() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = NetworkConfig(
        task="detection", domain="pixel", backbone="resnet18", fpn_width=16, box_head_width=32
    )
    network = build_network(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = network.tail.pyramid(network.stem(torch.zeros(1, 3, 64, 128)))
        network.tail.rpn.head(list(maps.values()))
    # The box head has two layers and two predictors, for as many proposals as there may be.
    a_proposal = 16 * 7 * 7 * 32 + 32 * 32 + 32 * (19 + 4 * 19)
    macs = network_macs(config, 64, 128)
    assert macs.true == counter.get_total_flops() // 2 + 1000 * a_proposal
    latent = network_macs(dataclasses.replace(config, domain="latent"), 64, 128)
    assert latent.parts["tail"] == macs.parts["tail"]


def test_counting_leaves_the_module_alone() -> None:
    transform = build_transform("deconv", 4, FEATURES).train()
    count_macs(transform, (1, 4, 2, 2))
    assert transform.training
    assert {p.device.type for p in transform.parameters()} == {"cpu"}
    assert not transform.up1._forward_hooks
