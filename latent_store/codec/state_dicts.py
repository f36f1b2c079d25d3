"""State dicts of hyperprior codecs: read as data, and compared with a fresh model's.

Convolution and GDN parameters may be stored in half precision. Buffers may not: bounds of 1e-9
and pedestals of 2**-36 become 0, and with them likelihoods underflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latent_store.codec import stock
from latent_store.codec.pickles import load_pickle
from latent_store.errors import CheckpointError

WRAPPERS = ("network", "state_dict", "model_state_dict")
"""Keys under which CompressAI's tools and training scripts put the state dict."""
MOST_WRAPPERS = 8
DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
SCALE_TABLE = "gaussian_conditional.scale_table"
_REFUSED_TYPE = re.compile(r"GLOBAL (\S+) was not an allowed global")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""Escape sequences of terminals, which torch puts into messages."""


def read_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Returns the state dict in a checkpoint file, with CompressAI's current key names.

    Args:
        data: The file's bytes.
        name: How messages call the file.

    Raises:
        CheckpointError: It is truncated, no checkpoint, or holds more than plain tensors.
    """
    content = load_plain(data, name)
    tensors = _unwrap(content)
    if not tensors:
        raise CheckpointError(
            f"{name} holds {_kind(content)}, not a state dict; save model.state_dict()"
        )
    for key, tensor in tensors.items():
        _require_plain(tensor, key, name, len(data))
    try:
        return dict(stock.remap_old_keys("entropy_bottleneck", stock.load_pretrained(tensors)))
    except LookupError as error:  # a key that only begins as theirs do
        raise CheckpointError(
            f"{name} has keys that no codec has; give a checkpoint of one"
        ) from error


def load_plain(data: bytes, name: str, map_location: str | torch.device = "cpu") -> Any:
    """Returns what `torch.save` wrote, if that is tensors and plain types.

    Raises:
        CheckpointError: It is truncated, no checkpoint, packed, or holds more than that.
    """
    try:
        return load_pickle(data, map_location)
    except Exception as error:  # of a damaged file torch raises whatever it meets
        if refused := refused_type(error):
            raise CheckpointError(
                f"{name} holds {refused} beside tensors, and objects are not loaded; save "
                "model.state_dict() alone"
            ) from error
        reason = " ".join(_STYLE.sub("", str(error)).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"{name} is no checkpoint of plain tensors, or it was truncated ({len(data)} bytes: "
            f"{reason}); copy it again, or save a state dict with torch.save"
        ) from error


def refused_type(error: Exception) -> str:
    """Returns the type that `torch.load(..., weights_only=True)` refused, e.g.
    `argparse.Namespace`; "" if that is not why it failed.
    """
    found = _REFUSED_TYPE.search(str(error))
    return found[1] if found else ""


def load_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], name: str, architecture: str
) -> None:
    """Loads a state dict into a fresh model, with the checkpoint's own entropy tables.

    Args:
        model: Fresh, and of the sizes that the state dict has.
        state_dict: From `read_state_dict`.
        name: How messages call the file.
        architecture: How messages call the model.

    Raises:
        CheckpointError: It is another architecture's, its tables were never built, or a value in
            it cannot be right.
    """
    expected = model.state_dict()
    found = _differing_keys(state_dict, expected)
    if found:
        raise CheckpointError(
            f"{name} holds {_guess(state_dict)}, not {architecture} ({type(model).__name__}): "
            f"{found}; give a checkpoint of that model"
        )
    _check_tables(state_dict, name)
    _check_values(state_dict, expected, name)
    model.load_state_dict(dict(state_dict))


def _unwrap(content: Any) -> dict[str, Tensor]:
    for _ in range(MOST_WRAPPERS):  # a dict may hold itself
        inner = [content.get(key) for key in WRAPPERS] if isinstance(content, dict) else []
        content = next((found for found in inner if isinstance(found, dict)), content)
    plain = isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
    return content if plain else {}


def _kind(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    # Keys may be anything, and too much to be printed.
    some = list(content)[:4]
    keys = ", ".join(key[:40] if isinstance(key, str) else type(key).__name__ for key in some)
    return f"a dict with the keys {keys}" if keys else "an empty dict"


def _require_plain(tensor: Tensor, key: str, name: str, file_bytes: int) -> None:
    """Refuses a tensor that is not numbers in memory, or claims more than the file holds."""
    strided = tensor.layout == torch.strided and tensor.device.type == "cpu"
    held = min(tensor.untyped_storage().nbytes(), file_bytes) if strided else -1
    if not (key.isprintable() and tensor.dtype in DTYPES and strided) or tensor.nbytes > held:
        raise CheckpointError(
            f"{name} has {key[:80]!r} as {tensor.dtype} {list(tensor.shape[:6])}, which "
            f"{file_bytes} bytes of plain numbers cannot be; save model.state_dict() alone"
        )


def _differing_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Returns which keys are missing, unexpected or of another shape; empty if none is."""
    missing = [key for key in expected if key not in state_dict]
    unknown = [key for key in state_dict if key not in expected]
    if missing or unknown:
        return f"{_some('missing', missing)}, {_some('unexpected', unknown)}"
    for key in expected:
        shape, fresh = tuple(state_dict[key].shape), tuple(expected[key].shape)
        if shape != fresh and not key.endswith((*TABLES, SCALE_TABLE)):
            return f"{key} is {shape}, expected {fresh}"
    return ""


def _some(what: str, keys: list[str]) -> str:
    return f"{len(keys)} keys {what}" + (f" (first {keys[0]})" if keys else "")


def _guess(state_dict: Mapping[str, Tensor]) -> str:
    if not any(key.startswith("g_a.") for key in state_dict):
        return f"no image codec (its first key is {next(iter(state_dict))})"
    if not any(key.startswith("h_a.") for key in state_dict):
        return "bmshj2018-factorized (FactorizedPrior)"
    return "another architecture"


def _check_tables(state_dict: Mapping[str, Tensor], name: str) -> None:
    for part in ("entropy_bottleneck", "gaussian_conditional"):
        for table in TABLES:
            tensor = state_dict[f"{part}.{table}"]
            fits = not tensor.is_floating_point() and tensor.numel() > 0
            if not fits or not torch.equal(tensor.to(torch.int32).to(tensor.dtype), tensor):
                raise CheckpointError(
                    f"{name} has no entropy tables ({part}.{table} is {tensor.dtype} "
                    f"{tuple(tensor.shape)}); call model.update() once after training and save it "
                    "again"
                )


def _check_values(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> None:
    for key, value in state_dict.items():
        if value.is_floating_point() != expected[key].is_floating_point():
            raise CheckpointError(
                f"{name} has {key} as {value.dtype}, a fresh model as {expected[key].dtype}; save "
                "weights as they are trained"
            )
        if not torch.isfinite(value.float()).all():
            raise CheckpointError(
                f"{name} has values in {key} that are not finite; train or copy it again"
            )
        fixed = key.endswith(("bound", "pedestal", "target"))
        # The table is an exponential, which may differ in the last bits between machines.
        fresh, rtol = (
            (stock.get_scale_table(), 1e-4) if key == SCALE_TABLE else (expected[key], 1e-6)
        )
        if not fixed and key != SCALE_TABLE:
            continue
        same = value.shape == fresh.shape
        if not same or not torch.allclose(value.float(), fresh.float(), rtol=rtol, atol=0.0):
            raise CheckpointError(
                f"{name} has another {key} than a fresh model ({_first(value)}, expected "
                f"{_first(fresh)}); keep buffers in float32 when a checkpoint is saved in half "
                "precision"
            )


def _first(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} starting with {tensor.flatten()[:1].tolist()}"
