"""The state of a run: its counters, where its random numbers are, and what came out of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch


@dataclass(kw_only=True)
class RunState:
    """Counters of a run.

    Attributes:
        step: Optimiser steps done.
        epoch: Epochs finished.
        best_score: The best validation so far; nan before the first.
        seconds: Training time of all sittings so far.
        finished: Whether the run came to its end.
    """

    step: int = 0
    epoch: int = 0
    best_score: float = math.nan
    seconds: float = 0.0
    finished: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns the counters that a file holds."""
        values = dict(values)
        if "best_miou" in values:  # written before there were other scores
            values["best_score"] = values.pop("best_miou")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a run.

    Attributes:
        checkpoint: Path of the network's file.
        sha256: Of that file.
        step: Optimiser steps done.
        epoch: Epochs finished.
        scores: The last validation; empty without one.
        seconds: Training time, of all sittings.
        wait_share: Share of this sitting's time spent waiting for data.
    """

    checkpoint: Path
    sha256: str
    step: int
    epoch: int
    scores: dict[str, float]
    seconds: float
    wait_share: float


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns where this process's random numbers are: "cpu", and "cuda" for a GPU, else None."""
    on_gpu = device.type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Goes on with the random numbers of another process."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
