"""Where a run is: everything that continuing it bit by bit needs, in one file.

`resume.pt` alone decides where a run goes on; `last.pt` and `best.pt` are networks for others to
use. One file, renamed into place, cannot be half old and half new.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latent_store.errors import CheckpointError, LatentStoreError
from training.trainer.checkpoints import parse, read_file, state_on_cpu, write_payload
from training.trainer.ranks import Ranks
from training.trainer.run_log import Meters

RESUME_FILE = "resume.pt"
RESUME_FORMAT = "latent-store-training"


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


def save_run(
    output: Path,
    state: RunState,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    meters: Meters,
    config: Mapping[str, Any],
    rng: Sequence[Mapping[str, Any]],
) -> None:
    """Writes `resume.pt` atomically; `rng` holds every rank's `random_state`, by rank."""
    payload = {
        "format": RESUME_FORMAT,
        "format_version": 1,
        "config": dict(config),
        "state": dataclasses.asdict(state),
        "network": state_on_cpu(network),
        "optimizer": optimizer.state_dict(),
        "loader": loader.state_dict(),
        "meters": meters.state_dict(),
        "rng": list(rng),
    }
    write_payload(output / RESUME_FILE, payload)


def load_run(
    output: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    meters: Meters,
    config: Mapping[str, Any],
    *,
    free: frozenset[str],
    device: torch.device,
    ranks: Ranks,
) -> RunState:
    """Reads `resume.pt` back into the parts of a run.

    Another number of ranks, or another kind of device, may go on with a run: only dropout then
    starts from fresh random numbers.

    Args:
        free: Names in `config` that may have changed.

    Raises:
        LatentStoreError: If another entry of `config` changed; it is named.
        CheckpointError: If the file is damaged.
    """
    path = output / RESUME_FILE
    payload = parse(read_file(path), str(path), expected_format=RESUME_FORMAT)
    require_same_config(payload["config"], config, free)
    try:
        network.load_state_dict(payload["network"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} holds another network than this run's configuration makes: start a new "
            "--output"
        ) from error
    optimizer.load_state_dict(payload["optimizer"])
    loader.load_state_dict(payload["loader"])
    meters.load_state_dict(payload["meters"], device)
    if len(payload["rng"]) == ranks.world:
        _set_random_state(payload["rng"][ranks.rank], device)
    values = dict(payload["state"])
    if "best_miou" in values:  # written before there were other scores
        values["best_score"] = values.pop("best_miou")
    return RunState(**values)


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns where this process's random numbers are: "cpu", and "cuda" for a GPU, else None."""
    on_gpu = device.type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
    }


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def require_same_config(
    before: Mapping[str, Any], now: Mapping[str, Any], free: frozenset[str]
) -> None:
    """Refuses to resume a run whose configuration changed.

    Raises:
        LatentStoreError: Names the first field that differs, with both values.
    """
    for name in {**before, **now}:
        if name not in free and before.get(name) != now.get(name):
            raise LatentStoreError(
                f"cannot resume with another --{name}: the run has {before.get(name)!r}, now it is "
                f"{now.get(name)!r}; give the same value, or start a new --output"
            )
