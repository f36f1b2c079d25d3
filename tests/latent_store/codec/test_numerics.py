"""Settings of the process: blocks that want a number of threads may overlap."""

from __future__ import annotations

import pytest
import torch

from latent_store.codec.numerics import exact_float32, torch_threads


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_blocks_of_threads_overlap_and_leave_what_was_before(first_to_end: int) -> None:
    before = torch.get_num_threads()
    blocks = [torch_threads(before + 2), torch_threads(before + 1)]
    for block in blocks:
        block.__enter__()
    assert torch.get_num_threads() == before + 1
    blocks.pop(first_to_end).__exit__(None, None, None)
    assert torch.get_num_threads() == before + 1 + first_to_end
    blocks.pop().__exit__(None, None, None)
    assert torch.get_num_threads() == before


def test_products_stay_exact_until_the_last_block_ends() -> None:
    conv, cpu = torch.backends.mkldnn.conv, torch.device("cpu")
    before = conv.fp32_precision
    conv.fp32_precision = "bf16"
    try:
        blocks = [exact_float32(cpu), exact_float32(cpu)]
        for block in blocks:
            block.__enter__()
        blocks[0].__exit__(None, None, None)
        assert conv.fp32_precision == "ieee"
        blocks[1].__exit__(None, None, None)
        assert conv.fp32_precision == "bf16"
    finally:
        conv.fp32_precision = before
