"""The precision that a run's networks get: native bfloat16, or float32."""

import logging

import pytest
import torch

from latent_store.codec.numerics import multiplies_bf16
from training.trainer.arithmetic import measured_slowdown, uses_bf16

CPU = torch.device("cpu")


def test_a_processor_computes_in_float32_unless_asked() -> None:
    assert not uses_bf16("auto", CPU)
    assert not uses_bf16("off", CPU)
    assert uses_bf16("bf16", CPU)


def test_what_a_processor_says_of_itself_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, native in (
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert multiplies_bf16(CPU) == native


@pytest.mark.skipif(multiplies_bf16(CPU), reason="this processor multiplies bfloat16 natively")
def test_emulated_bf16_warns_with_the_measured_slowdown(caplog: pytest.LogCaptureFixture) -> None:
    assert measured_slowdown(CPU) > 0
    with caplog.at_level(logging.WARNING):
        assert uses_bf16("bf16", CPU)
    (record,) = caplog.records
    assert "--amp bf16" in record.getMessage()
    assert "times as long as in float32; give --amp auto" in record.getMessage()
