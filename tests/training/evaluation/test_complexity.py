"""Multiply-adds: the paper's numbers, by hand, and by part."""

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.evaluation.complexity import count_macs, network_macs
from training.networks.network_config import NetworkConfig
from training.networks.transforms import build_transform
from training.tasks.registry import build_network

FEATURES = 64


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


def test_a_transposed_convolution_multiplies_at_its_inputs() -> None:
    transform = build_transform("deconv", 8, FEATURES, activation="relu")
    by_hand = 4 * 4 * 8 * 256 * 5 * 5 + 8 * 8 * 256 * FEATURES * 5 * 5
    assert count_macs(transform, (1, 8, 4, 4)).true == by_hand
    assert count_macs(transform, (3, 8, 4, 4)).true == 3 * by_hand


def test_a_networks_parts_add_up() -> None:
    macs = network_macs(NetworkConfig(backbone="resnet18", selection="dynamic"), 128, 256)
    assert set(macs.parts) == {"gate", "transform", "tail"}
    assert sum(macs.parts.values()) == macs.true
    pixel = network_macs(NetworkConfig(backbone="resnet18", domain="pixel"), 128, 256)
    assert set(pixel.parts) == {"stem", "tail"}
    assert pixel.parts["tail"] == macs.parts["tail"]


def test_a_detectors_products_are_those_of_its_layers() -> None:
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
