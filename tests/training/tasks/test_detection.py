"""Detection as a task: what of a detector is compiled, and when."""

from __future__ import annotations

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from tests.training.made_detectors import SHAPE
from training.networks.network_config import NetworkConfig
from training.tasks.detection import DETECTION
from training.tasks.registry import build_network


def test_a_compiled_detector_is_as_it_was_where_nothing_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    network = build_network(NetworkConfig(**SHAPE, latent_channels=8)).eval()
    call = DETECTION.compile(network)
    y_hat_BCHW, valid_B2 = torch.ones(1, 8, 4, 4), torch.tensor([[64, 64]])
    counters.clear()
    with torch.no_grad():
        call(y_hat_BCHW, valid_B2=valid_B2)
    assert not counters["frames"]
    learned_BCHW = network.transformed(y_hat_BCHW)["features"]
    assert counters["frames"]["ok"] == 1
    with torch.no_grad():
        torch.testing.assert_close(learned_BCHW, network.transformed(y_hat_BCHW)["features"])
