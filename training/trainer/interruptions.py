"""Interruptions of a run before its end: SIGTERM, Ctrl-C, or a loss that is not finite."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from latent_store.errors import JobFailedError
from training.trainer.ranks import Ranks


@contextlib.contextmanager
def until_stopped() -> Iterator[list[int]]:
    """Yields a list to which SIGTERM and Ctrl-C are added, so that the step under way is saved.

    A second Ctrl-C interrupts at once. A signal that the process was started to ignore stays so.
    """
    asked: list[int] = []

    def remember(number: int, _: object) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt("interrupted at once; go on from the last save with --resume")
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals are the main thread's matter
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, remember)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LossWatch:
    """Remembers whether each step's loss was finite, and which samples it came from.

    Looking at every step would make a GPU wait for the loop; it is looked at when something is
    logged or saved. `remedy` says what the user can do.
    """

    def __init__(self, ranks: Ranks, remedy: str) -> None:
        self._ranks, self._remedy = ranks, remedy
        self._pending: list[tuple[int, list[str], torch.Tensor, torch.Tensor]] = []

    def add(
        self,
        step: int,
        batches: Sequence[Mapping[str, Any]],
        own_loss: torch.Tensor,
        parts: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds a step of this rank's batches, which "sample_ids" name in the error.

        `own_loss` is this rank's part of the loss; of all ranks are the parts "loss", and
        "gradient_norm" if the gradient is clipped.
        """
        finite = torch.isfinite(parts["loss"])
        if "gradient_norm" in parts:
            finite = finite & torch.isfinite(parts["gradient_norm"])
        ids = [name for batch in batches for name in batch.get("sample_ids", ())]
        self._pending.append((step, ids, torch.isfinite(own_loss), finite))

    def check(self, epoch: int) -> None:
        """Looks at the steps since the last look.

        Raises:
            JobFailedError: If a loss was not finite, on every rank the same; it names the samples
                of the ranks whose own part was not, or all where only the gradient was not.
        """
        pending, self._pending = self._pending, []
        for step, ids, own_finite, finite in pending:
            if finite:  # the same on every rank
                continue
            found = self._ranks.gather((bool(own_finite), ids))
            guilty = [theirs for fine, theirs in found if not fine] or [ids for _, ids in found]
            names = ", ".join(name for ids in guilty for name in ids)
            raise JobFailedError(
                f"the loss is not finite at step {step} (epoch {epoch}); the batch was "
                f"{names or 'not named by its loader'}; nothing since the last checkpoint is "
                f"saved: {self._remedy}"
            )
