"""What each of two ranks does in `test_ranks`: runs that end, stop, go on, and refuse.

    torchrun --standalone --nproc_per_node 2 -m tests.training.two_ranks STORE OUTPUT

All in one group, because starting processes is most of the time.

Each rank leaves `OUTPUT/rank-N.json`: what stopped each run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from latent_store.errors import LatentStoreError
from training import train
from training.flags import read_flags
from training.tasks.objective import Objective
from training.trainer import assembly
from training.trainer.job import CONFIGS, Job
from training.trainer.ranks import Ranks, joined

ANY = """
    --transform_init fresh
    --selection any --mask variance --cuts 16 32 --init scratch --backbone mobilenet_v2
    --aspp_width 16 --crop 64 --batch_size 4 --accumulate 2 --max_steps 2 --dropout 0 --clip_norm 1
    --log_steps 1 --learning_rate 1e-4 --device cpu --workers 0 --no-tensorboard --freeze_batch_norm
    --val_max_samples 3
"""
"""Without dropout, so that one process and two compute the same."""

FLAGS = """
    --transform_init fresh
    --selection dynamic --init scratch --backbone mobilenet_v2 --aspp_width 16 --crop 64
    --batch_size 2 --device cpu --workers 0 --no-tensorboard --val_split none --log_steps 1
    --freeze_batch_norm --max_steps 4 --learning_rate 1e-4
"""


class Stopped(Objective):
    """SIGTERM arrives in step 2."""

    def forward(self, batch: Any, *others: Any) -> dict[str, torch.Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch, *others)


class Poisoned(Objective):
    """A feature is not a number in step 2."""

    def forward(self, batch: Any, *others: Any) -> dict[str, torch.Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:
            batch["features_BCHW"][0, 0, 0, 0] = torch.nan
            self.poisoned = batch["sample_ids"]
        return super().forward(batch, *others)


def any_arguments(store: str, output: Path) -> list[str]:
    return ["--store", store, "--output", str(output), *ANY.split()]


def make_job(store: str, output: Path, *more: str, resume: bool = False) -> Job:
    words = ["--store", store, "--output", str(output), *FLAGS.split(), *more]
    args = train.make_arguments().parse_args(words)
    data, model, loader, trainer = (read_flags(args, config) for config in CONFIGS)
    return Job(data=data, model=model, loader=loader, trainer=trainer, output=output, resume=resume)


def reason(job: Job, ranks: Ranks, objective: type[Objective] = Objective) -> str:
    """Trains with something that happens on rank 1; returns what stopped it."""
    assembly.Objective = objective if ranks.rank == 1 else Objective
    try:
        assembly.train(job, ranks)
    except LatentStoreError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        assembly.Objective = Objective
    return "nothing"


def main(store: str, output: Path) -> None:
    torch.set_num_threads(1)
    with joined() as ranks:
        assert train.main(any_arguments(store, output / "any")) == 0
        parted = output / "parted"
        found = {
            "whole": reason(make_job(store, output / "whole"), ranks),
            "stopped": reason(make_job(store, parted), ranks, Stopped),
            "resumed": reason(make_job(store, parted, resume=True), ranks),
            "poisoned": reason(make_job(store, output / "poisoned"), ranks, Poisoned),
        }
        for name, flags in {
            "shares": ["--batch_size", "3"],
            "batch norm": ["--no-freeze_batch_norm"],
        }.items():
            found[name] = reason(make_job(store, output / "refused", *flags), ranks)
        (output / f"rank-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
