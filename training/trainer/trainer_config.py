"""Flags of the training: the schedule, the device, and what is saved when."""

from dataclasses import dataclass

from latent_store.console import MOST_SEED
from training.flags import Flags, flag
from training.trainer.precision import AMP_CHOICES


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Flags):
    """Flags of the training. The schedule's defaults are the paper's (section 3.1)."""

    epochs: int = flag("epochs; the paper's 400", default=400, least=1)
    max_steps: int | None = flag(
        "stop after so many steps, with the schedule fitted to them; 0 saves the network as it "
        "starts, measured (default: all of --epochs)",
        default=None,
    )
    learning_rate: float = flag(
        "Adam's learning rate at the start; the paper's 1e-3", default=1e-3, above_least=True
    )
    drop_at: float = flag(
        "share of the run after which it drops; the paper's 300 of 400", default=0.75, most=1
    )
    drop_factor: float = flag("what it drops to, relatively; the paper's 1e-4", default=0.1, most=1)
    warmup_steps: int = flag("steps over which the learning rate rises linearly", default=0)
    accumulate: int = flag("batches in one optimiser step", default=1, least=1)
    clip_norm: float = flag("largest norm of the gradient; 0 = no clipping", default=0.0)
    freeze_batch_norm: bool = flag(
        "batch norm keeps the statistics that it starts with", default=False
    )
    seed: int = flag("of weights, order, crops and the gate's noise", default=0, most=MOST_SEED)
    deterministic: bool = flag(
        "the same run gives the same weights bit for bit, also on a GPU; slower there",
        default=False,
    )
    device: str = flag("auto, cpu, cuda or cuda:N", default="auto", free=True)
    amp: str = flag(
        "autocast of the networks; auto is bf16 where the device multiplies it natively",
        default="auto",
        choices=AMP_CHOICES,
    )
    compile: bool = flag("run the networks through torch.compile", default=False)
    validate_epochs: int = flag(
        "epochs between validations; 0 = only at the end", default=10, free=True
    )
    log_steps: int = flag(
        "steps between log records and checks of the loss", default=10, free=True, least=1
    )
    checkpoint_minutes: float = flag(
        "minutes between checkpoints; 0 = off", default=10.0, free=True
    )
    checkpoint_epochs: int = flag("epochs between checkpoints; 0 = off", default=0, free=True)
    tensorboard: bool = flag("write TensorBoard files", default=True, free=True)

    def rate(self, step: int, total: int) -> float:
        """Returns the learning rate of the step after `step` of `total`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        dropped = self.drop_factor if step >= self.drop_at * total else 1.0
        return self.learning_rate * warm * dropped

    def total_steps(self, batches: int) -> int:
        """Returns how many optimiser steps a run has, with `batches` in an epoch."""
        steps = self.epochs * -(-batches // self.accumulate)
        return steps if self.max_steps is None else min(steps, self.max_steps)
