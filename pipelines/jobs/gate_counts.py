"""Counts what the gate of a dynamic network keeps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from latent_store.errors import CheckpointError
from latent_store.storage.location import Location
from training.selection.gated import Gated
from training.trainer.checkpoints import LoadedNetwork, load_network


def count_gates(
    loaded: LoadedNetwork, pooled_BC: np.ndarray, sounding_BC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Runs the gate of a dynamic network without noise (argmax) on each sample.

    A channel that is zero everywhere in a sample is not counted as kept there, whatever the gate
    says: keeping it changes nothing, so nothing ever taught the gate to drop it.

    Args:
        pooled_BC: Float32 `[B, M]`, the whole images' pooled latents.
        sounding_BC: Bool `[B, M]`, whether the channel has a symbol other than 0.

    Returns:
        Times on of each channel, int64 `[M]`, and P(on) of each sample, float32 `[B, M]`.
    """
    gate: Any = loaded.network.gate
    with torch.inference_mode():
        # One sample at a time: a matrix product may round differently in another batch.
        outputs = [gate(torch.from_numpy(row[None])) for row in pooled_BC]
    on = np.stack([o.gate_BC[0].numpy() for o in outputs]) * sounding_BC
    probability = np.stack([o.probability_BC[0].numpy() for o in outputs]) * sounding_BC
    return on.sum(axis=0, dtype=np.int64), probability


@functools.lru_cache(maxsize=2)
def stored_gate(store: Location, key: str) -> LoadedNetwork:
    """Loads the dynamic network that a job laid into the store, once a process."""
    return load_gate(store.read(key))


def load_gate(checkpoint: bytes) -> LoadedNetwork:
    """Loads a dynamic network.

    Raises:
        CheckpointError: It has no gate.
    """
    loaded = load_network(checkpoint, kind="network")
    if not isinstance(loaded.config.channel_selection, Gated):
        raise CheckpointError(
            f"--method frequency counts a gate's decisions, but this network has selection "
            f"{loaded.config.selection!r}; give the checkpoint of a run with --selection dynamic"
        )
    return loaded
