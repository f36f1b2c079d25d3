"""State dicts of a scale hyperprior: read as data, and compared with a fresh model's.

Convolution and GDN parameters may be stored in half precision. Buffers may not: bounds of 1e-9
and pedestals of 2**-36 become 0, and with them likelihoods underflow.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latent_store.codec.stock import (
    ScaleHyperprior,
    get_scale_table,
    load_pretrained,
    remap_old_keys,
)
from latent_store.errors import CheckpointError

ARCHITECTURE = "bmshj2018-hyperprior"
WRAPPERS = ("network", "state_dict", "model_state_dict")
"""Keys under which CompressAI's tools and training scripts put the state dict."""
TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
SCALE_TABLE = "gaussian_conditional.scale_table"


def read_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Returns the state dict in a checkpoint file, with CompressAI's current key names.

    Args:
        data: The file's bytes.
        name: How messages call the file.

    Raises:
        CheckpointError: It is truncated, no checkpoint, or holds more than plain tensors.
    """
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"{name} is no checkpoint of plain tensors, or it was truncated ({len(data)} bytes: "
            f"{reason}); copy it again, or save a state dict with torch.save"
        ) from error
    tensors = _unwrap(content)
    if not tensors:
        raise CheckpointError(
            f"{name} holds {_kind(content)}, not a state dict; save model.state_dict()"
        )
    return dict(remap_old_keys("entropy_bottleneck", load_pretrained(tensors)))


def build_model(state_dict: Mapping[str, Tensor], name: str) -> ScaleHyperprior:
    """Returns the model of a state dict, float32, with the checkpoint's own entropy tables.

    Args:
        state_dict: From `read_state_dict`.
        name: How messages call the file.

    Raises:
        CheckpointError: It is another architecture's, its tables were never built, or a value in
            it cannot be right.
    """
    # Building a model draws its initial weights; loading a codec must not move the caller's seed.
    with torch.random.fork_rng(devices=[]):
        model = _fresh_model(state_dict)
    if model is None:
        raise CheckpointError(_other_architecture(state_dict, name, "no g_a of four convolutions"))
    expected = model.state_dict()
    _check_keys(state_dict, expected, name)
    _check_tables(state_dict, name)
    _check_values(state_dict, expected, name)
    model.load_state_dict(dict(state_dict))
    return model


def _unwrap(content: Any) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    plain = isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
    return content if plain else {}


def _kind(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    keys = ", ".join(str(key) for key in list(content)[:4])
    return f"a dict with the keys {keys}" if keys else "an empty dict"


def _fresh_model(state_dict: Mapping[str, Tensor]) -> ScaleHyperprior | None:
    first, last = state_dict.get("g_a.0.weight"), state_dict.get("g_a.6.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return None
    return ScaleHyperprior(first.shape[0], last.shape[0])


def _check_keys(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> None:
    missing = [key for key in expected if key not in state_dict]
    unknown = [key for key in state_dict if key not in expected]
    if missing or unknown:
        found = f"{_some('missing', missing)}, {_some('unexpected', unknown)}"
        raise CheckpointError(_other_architecture(state_dict, name, found))
    sized = [key for key in expected if not key.endswith((*TABLES, SCALE_TABLE))]
    for key in sized:
        if state_dict[key].shape != expected[key].shape:
            shapes = f"{tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
            raise CheckpointError(_other_architecture(state_dict, name, f"{key} is {shapes}"))


def _some(what: str, keys: list[str]) -> str:
    return f"{len(keys)} keys {what}" + (f" (first {keys[0]})" if keys else "")


def _other_architecture(state_dict: Mapping[str, Tensor], name: str, found: str) -> str:
    return (
        f"{name} holds {_guess(state_dict)}, not {ARCHITECTURE} (ScaleHyperprior): {found}; give a "
        "checkpoint of that model"
    )


def _guess(state_dict: Mapping[str, Tensor]) -> str:
    if not any(key.startswith("g_a.") for key in state_dict):
        return f"no image codec (its first key is {next(iter(state_dict))})"
    if any(key.startswith("context_prediction.") for key in state_dict):
        return "an autoregressive codec (mbt2018 or cheng2020)"
    if not any(key.startswith("h_a.") for key in state_dict):
        return "bmshj2018-factorized (FactorizedPrior)"
    scales, last = state_dict.get("h_s.4.weight"), state_dict.get("g_a.6.weight")
    if scales is not None and last is not None and scales.shape[0] == 2 * last.shape[0]:
        return "mbt2018-mean (MeanScaleHyperprior)"
    return "another architecture"


def _check_tables(state_dict: Mapping[str, Tensor], name: str) -> None:
    for part in ("entropy_bottleneck", "gaussian_conditional"):
        for table in TABLES:
            tensor = state_dict[f"{part}.{table}"]
            if not tensor.numel() or tensor.is_floating_point():
                raise CheckpointError(
                    f"{name} has no entropy tables ({part}.{table} is {tensor.dtype} "
                    f"{tuple(tensor.shape)}); call model.update() once after training and save it "
                    "again"
                )


def _check_values(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> None:
    for key, value in state_dict.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{name} has values in {key} that are not finite; train or copy it again"
            )
        fixed = key.endswith(("bound", "pedestal", "target"))
        # The table is an exponential, which may differ in the last bits between machines.
        fresh, rtol = (get_scale_table(), 1e-4) if key == SCALE_TABLE else (expected[key], 1e-6)
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
