"""A digest over everything in a checkpoint: tensors, shapes, names and plain values.

Neither torch's files nor safetensors notice a flipped bit in a weight.
"""

import hashlib
from typing import Any

import torch

DIGEST = "content_sha256"
"""Entry of a checkpoint, and of a safetensors header, that holds the `content_sha256` of the rest;
files of earlier versions have none."""


def content_sha256(content: Any) -> str:
    """Returns the sha256 over tensors and plain values, however deep; the order of names is none.

    Raises:
        RecursionError: If it holds itself.
    """
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for name in sorted(value, key=repr):
            digest.update(f"{name!r}\n".encode())
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for item in value:
            _add(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}\n".encode())
