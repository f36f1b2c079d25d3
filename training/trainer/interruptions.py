"""Interruptions of a run before its end: SIGTERM, Ctrl-C, or a loss that is not finite."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from latent_store.errors import JobFailedError
from training.trainer.ranks import Ranks

_ECHO_SECONDS = 1.0
"""Within these a second SIGTERM is the first one's echo, by a process group and by what runs it."""
_GRACE_SECONDS = 5.0
"""What a step that no Python runs in may take on after a second signal."""
_AT_ONCE = "interrupted at once; go on from the last save with the same command and --resume"
_NOTICES = {
    signal.SIGINT: "stopping after this step; Ctrl-C once more to stop at once",
    signal.SIGTERM: "stopping after this step; SIGTERM once more to stop at once",
}


@contextlib.contextmanager
def until_stopped(*, speaks: bool = True) -> Iterator[list[int]]:
    """Yields a list to which SIGTERM and Ctrl-C are added, so that the step under way is saved.

    The same signal once more stops at once: it raises, and where nothing of Python runs that could
    be interrupted, the process ends a few seconds later. A signal that the process was started to
    ignore stays so.

    Args:
        speaks: Whether the first signal is answered on stderr at once.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals are the main thread's matter
        return
    before = {number: signal.getsignal(number) for number in _NOTICES}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    since = time.monotonic()

    def remember(number: int, _: object) -> None:
        nonlocal since
        if _is_second(number, asked, since):
            raise (KeyboardInterrupt if number == signal.SIGINT else JobFailedError)(_AT_ONCE)
        since = since if asked else time.monotonic()
        asked.append(number)

    with _answered(heard, speaks=speaks):
        for number in heard:
            signal.signal(number, remember)
        try:
            yield asked
        finally:
            for number in heard:
                signal.signal(number, before[number])


def _is_second(number: int, earlier: Sequence[int], since: float) -> bool:
    echo = number == signal.SIGTERM and time.monotonic() - since < _ECHO_SECONDS
    return number in earlier and not echo


@contextlib.contextmanager
def _answered(numbers: Sequence[int], *, speaks: bool) -> Iterator[None]:
    """Answers signals from a thread of its own.

    A handler runs only once the main thread is back in Python, which a backward pass on a CPU may
    keep it from for a minute.
    """
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)  # as `signal.set_wakeup_fd` asks for
    over = threading.Event()

    def answer() -> None:
        earlier: list[int] = []
        since = 0.0
        while arrived := ours.recv(1):
            number = arrived[0]
            if number not in numbers:
                continue
            if _is_second(number, earlier, since):
                if not over.wait(_GRACE_SECONDS):
                    tqdm.write(_AT_ONCE, file=sys.stderr)
                    os._exit(128 + number)
                return
            if not earlier:
                since = time.monotonic()
                if speaks:
                    tqdm.write(_NOTICES[signal.Signals(number)], file=sys.stderr)
            earlier.append(number)

    thread = threading.Thread(target=answer, name="signals", daemon=True)
    thread.start()
    former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        over.set()
        theirs.close()  # what has arrived is still answered
        thread.join()
        ours.close()


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
