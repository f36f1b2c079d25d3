"""Arrays as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from latent_store.format.boxes import Boxes


def as_tensors(values: Mapping[str, Any], *, pin_memory: bool = False) -> dict[str, Any]:
    """Returns the same with tensors for arrays, in lists of dicts too; the rest stays.

    Integers stay as narrow as they were stored: they are widened on the device.

    Args:
        values: Arrays and others by name.
        pin_memory: Whether tensors are put into page-locked memory, for a GPU.
    """
    return {name: _converted(value, pin_memory=pin_memory) for name, value in values.items()}


def box_arrays(boxes: Boxes) -> dict[str, np.ndarray]:
    """Returns "boxes" float32 [n, 4], "labels" int64 [n], "difficult" and "truncated" bool [n]."""
    return {
        "boxes": boxes.boxes_N4,
        "labels": boxes.labels_N,
        "difficult": boxes.difficult_N,
        "truncated": boxes.truncated_N,
    }


def _converted(value: Any, *, pin_memory: bool) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [as_tensors(item, pin_memory=pin_memory) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    # Contiguous arrays have one axis or more, numbers none.
    tensor = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    return tensor.pin_memory() if pin_memory else tensor
