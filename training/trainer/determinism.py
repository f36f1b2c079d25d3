"""Runs that equal themselves bit for bit.

Order, crops, N and the gate's noise are keyed and need nothing. On a CPU the same number of threads
gives the same sums. A GPU's fastest kernels add in whatever order their threads finish; with
`--deterministic` torch takes others, refuses operations that have none, and cuDNN neither measures
which algorithm is fastest nor takes one that is not reproducible. It holds for one machine and one
version of torch.
"""

import contextlib
import os
from collections.abc import Iterator

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def algorithms(*, deterministic: bool) -> Iterator[None]:
    """Restricts torch to deterministic algorithms inside, if asked to; undoes it at the end."""
    if not deterministic:
        yield
        return
    # cuBLAS reads it when it is first used; without it torch refuses matrix products on CUDA.
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(mode=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
