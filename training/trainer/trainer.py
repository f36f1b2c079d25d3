"""The training loop: any task, any loader, one process or several; stops and continues anywhere.

A run's folder:

    config.json   the resolved configuration
    log.jsonl     records of steps, epochs and validations; tb/ the same for TensorBoard
    resume.pt     everything that `--resume` needs
    last.pt       the network as it is (the reported one); best.pt at its best validation
    last.safetensors, README.md    at the end: exported weights and model card

Under `torchrun` every rank runs the loop, in step with the others; the first one alone writes.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latent_store.errors import JobFailedError
from training.trainer.determinism import algorithms
from training.trainer.interruptions import until_sigterm
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run import Batch, FitResult, Loader, Run, Task, Validate
from training.trainer.trainer_config import TrainerConfig


def fit(
    task: Task,
    loader: Loader,
    config: TrainerConfig,
    output: Path,
    *,
    meta: Mapping[str, Any],
    run_config: Mapping[str, Any] | None = None,
    codec_bytes: bytes | None = None,
    validate: Validate | None = None,
    resume: bool = False,
    free: frozenset[str] | None = None,
    ranks: Ranks = ALONE,
) -> FitResult:
    """Trains a task's network.

    Args:
        task: Network and loss; the network may lie anywhere, it is moved to the device.
        loader: Batches; what they hold is between it and the task. "sample_ids" (list of str)
            names them in errors.
        config: How to train.
        output: The run's folder, made if it is not there.
        meta: The checkpoint's, see `LoadedNetwork`; "train", "epoch" and "step" are filled in.
        run_config: Everything that the run depends on, plain types; by default `config`.
        codec_bytes: The codec's checkpoint file, to lie in the network's.
        validate: Called as `validate(network, device)`; the task's score decides which is best.pt.
            Every rank calls it, and must get the same.
        resume: Go on where `resume.pt` in `output` stands, if it is there.
        free: Names in `run_config` that a resumed run may change; by default `config`'s own.
        ranks: Those that train together; `loader` and `validate` must know them too.

    Returns:
        Where the network lies and how it went.

    Raises:
        LatentStoreError: If `output` holds a run and `resume` is not set, or the configuration
            changed since, or ranks cannot train this network together.
        JobFailedError: If the loss is not finite (the samples are named), if no sample has a
            label, or after SIGTERM on any rank (a checkpoint is saved first).
    """
    run = Run(task, loader, config, output, meta, run_config, codec_bytes, free, ranks)
    run.start(resume=resume)
    if run.state.finished:
        return run.result({})
    scores: dict[str, float] = {}
    exact = algorithms(deterministic=config.deterministic)
    with exact, until_sigterm() as stopping, run.opened() as log, run.bar() as bar:
        while run.state.step < run.total_steps:
            for batches in run.clock.timed(_in_groups(iter(loader), config.accumulate)):
                parts = run.train_step(batches)
                run.meters.add(parts)
                if run.state.step % config.log_steps == 0:
                    run.log_step(log, bar, parts)
                bar.update()
                wish = {"stop": stopping.is_set(), "save": run.checkpoint_due()}
                told = ranks.sum_numbers(wish)
                if told["stop"] or told["save"]:
                    run.save()
                if told["stop"]:
                    raise JobFailedError(
                        f"stopped by SIGTERM after step {run.state.step} of {run.total_steps}; "
                        f"everything is saved in {output}: go on with --resume"
                    )
                if run.state.step == run.total_steps:
                    break
            run.end_epoch(log)
            if validate is not None and run.validation_due():
                run.validate(validate, log)
        run.settle()
        if validate is not None:
            scores = run.validate(validate, log)
    return run.finish(scores)


def _in_groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group
