"""The arithmetic of a run: bfloat16 where it pays, and results that are equal bit for bit.

A processor without AVX512-BF16 or AMX converts every number on its way in and out of a float32
product: the result is right and comes many times later (16 to 25 times on AVX2).

Order, crops, N and the gate's noise are keyed and need nothing to be repeated. On a CPU the same
number of threads gives the same sums. A GPU's fastest kernels add in whatever order their threads
finish; with `--deterministic` torch takes others, refuses operations that have none, and cuDNN
neither measures which algorithm is fastest nor takes one that is not reproducible. It holds for one
machine and one version of torch.

Gradients that no picture asks for fade below 1e-38, and there a processor takes a hundred cycles a
product. Steps take such numbers for 0: a Faster R-CNN on MobileNetV2 in half the time.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator

import torch
from torch import nn

from latent_store.codec.numerics import NATIVE_BF16, multiplies_bf16

_LOG = logging.getLogger(__name__)


def uses_bf16(amp: str, device: torch.device) -> bool:
    """Returns whether networks on a device run under autocast to bfloat16.

    "auto" is bfloat16 on GPUs that multiply it. On processors it is float32, also on those with
    AVX512-BF16 and AMX: there a ResNet-18 of small crops took 1.3 times as long in bfloat16 and
    MobileNetV2 as long as in float32; a ResNet-18 of frames of 256×256 took 0.6 of the time, for
    which "bf16" can be asked. And float32 gives the same weights on processors of both kinds.

    If bfloat16 is asked for and emulated, a warning says how much slower that is here.
    """
    native = multiplies_bf16(device)
    if amp == "bf16" and not native:
        _LOG.warning(
            "warning: --amp bf16: this %s has no bfloat16 arithmetic (%s) and emulates it: a "
            "convolution takes %.0f times as long as in float32; give --amp auto, or --amp off",
            *(device.type, " or ".join(NATIVE_BF16), measured_slowdown(device)),
        )
    return amp == "bf16" or (amp == "auto" and native and device.type == "cuda")


def measured_slowdown(device: torch.device) -> float:
    """Returns how many times longer a convolution, forward and backward, takes in bfloat16."""
    layer = nn.Conv2d(64, 64, 3, padding=1).to(device)
    x_BCHW = torch.zeros(1, 64, 32, 32, device=device)
    seconds = {}
    for enabled in (False, True):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                layer(x_BCHW).sum().backward()
            times.append(time.perf_counter() - start)
        seconds[enabled] = min(times)
    return seconds[True] / seconds[False]


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Lets the processor take denormal numbers for 0 inside; as before at the end."""
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Returns whether this thread takes denormal numbers for 0; torch does not tell."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return bool(smallest / 2 == 0)


@contextlib.contextmanager
def algorithms(*, deterministic: bool) -> Iterator[None]:
    """Restricts torch to deterministic algorithms inside, if asked to; undoes it at the end."""
    if not deterministic:
        yield
        return
    # cuBLAS reads it when it is first used; without it torch refuses matrix products on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(mode=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
