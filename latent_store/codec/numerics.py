"""The device that torch computes on, and settings of the process: precision and threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from latent_store.errors import LatentStoreError

NATIVE_BF16 = ("avx512_bf16", "amx_bf16")
"""What processors of x86 call the instructions for bfloat16."""


def choose_device(name: str) -> torch.device:
    """Returns the device called `name`; "auto" is CUDA where there is one.

    Raises:
        LatentStoreError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = _parse_device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not count:
        raise LatentStoreError(f"`device={name}`: there is no CUDA device here; use `device=cpu`")
    if (device.index or 0) >= count:
        raise LatentStoreError(
            f"`device={name}`: there are {count} CUDA devices here, from 0 on; use one of them"
        )
    return device


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise LatentStoreError(f"`device=` must be auto, cpu or cuda[:N], got {name!r}")
    return device


def device_word(name: str, *, here: bool) -> str:
    """Returns the name of the device that this machine computes on; for another one, `name`.

    Raises:
        LatentStoreError: There is no such device here; or nowhere.
    """
    if here:
        return str(choose_device(name))
    return name if name == "auto" else str(_parse_device(name))


def describe_device(device: torch.device) -> str:
    """Returns what the last bits of a device's sums depend on: a CPU's kernels, a GPU's model."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def multiplies_bf16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    # ARM says it in one word; x86 has two instruction sets.
    return any(bool(capabilities.get(name)) for name in (*NATIVE_BF16, "bf16"))


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Keeps autocast, and convolutions and products in TF32 or bf16, out of a block.

    Either would move ŷ by whole steps, and with it the identity of the latents: on GPUs, TF32 is
    the default for convolutions.
    """
    backend: Any = torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn
    # On GPUs no layer is a product of matrices.
    parts = [backend.conv] if device.type == "cuda" else [backend.conv, backend.matmul]
    with contextlib.ExitStack() as exact:
        for number, part in enumerate(parts):
            exact.enter_context(_exact(f"{device.type} {number}", part))
        exact.enter_context(torch.autocast(device.type, enabled=False))
        yield


@contextlib.contextmanager
def _exact(name: str, part: Any) -> Iterator[None]:
    """Keeps a setting of the process exact until the last of the blocks that need it ends."""
    with _changing:
        users, before = _exact_blocks.get(name, (0, part.fp32_precision))
        _exact_blocks[name] = users + 1, before
        # Where it is exact already, other threads must not notice.
        if not users and before not in ("ieee", "none"):
            part.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _changing:
            users, before = _exact_blocks.pop(name)
            if users > 1:
                _exact_blocks[name] = users - 1, before
            elif before not in ("ieee", "none"):
                part.fp32_precision = before


_changing = threading.Lock()
_exact_blocks: dict[str, tuple[int, str]] = {}
"""Setting -> blocks under way that need it exact, and what it was before them."""
_blocks: list[int] = []
"""Threads that the blocks of `torch_threads` under way want, the last to begin last."""


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs a block with so many threads.

    The setting is the process's, for threads that begin later, and the calling thread's. Where
    blocks of several threads overlap, the last to begin has its way with those that begin then, and
    what was before the first is there again after the last to end.
    """
    with _changing:
        if not _blocks:
            _blocks.append(torch.get_num_threads())
        _blocks.append(count)
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _changing:
            # Of equal ones it is all the same which goes.
            del _blocks[len(_blocks) - 1 - _blocks[::-1].index(count)]
            torch.set_num_threads(_blocks[-1])
            if len(_blocks) == 1:
                _blocks.clear()
