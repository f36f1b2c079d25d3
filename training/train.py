"""`train-from-store`: trains a segmentation or detection network on the latents of a store.

    train-from-store --store cv.zarr --dataset cityscapes --output runs/dynamic --selection dynamic
    train-from-store --store cv.zarr --dataset cityscapes --output runs/static-16 \\
        --selection static --mask frequency --keep 16
    train-from-store --store cv.zarr --dataset cityscapes --output runs/any \\
        --selection any --mask frequency
    train-from-store --store voc.zarr --dataset voc2007 --split trainval --output runs/detector \\
        --task detection --selection dynamic

Several GPUs, each with its part of every batch (--batch_size counts all of them):

    torchrun --standalone --nproc_per_node 4 -m training.train --store cv.zarr --output runs/one ...
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latent_store.console import make_parser, run_command
from latent_store.errors import LatentStoreError, StoreNotFoundError
from training.data.loader import LoaderConfig, StoreLoader, WholeImages
from training.data.sources import SourceSpec, StoreSource
from training.flags import add_flags, read_flags
from training.networks.networks import LatentNetwork, NetworkConfig
from training.tasks.build import build_network
from training.tasks.detection_task import DetectionTask, DetectionValidator
from training.tasks.losses import DetectionLoss, SegmentationLoss
from training.tasks.tasks import NetworkValidator, SegmentationTask, SegmentationValidator, headline
from training.trainer import initialise
from training.trainer.checkpoints import load_network
from training.trainer.inputs import Inputs, find_inputs
from training.trainer.job import CONFIGS, FREE, NONE, Job, ModelConfig
from training.trainer.ranks import ALONE, Ranks, joined
from training.trainer.run import FitResult
from training.trainer.trainer import fit
from training.trainer.trainer_config import TrainerConfig

COMMAND = "train-from-store"
TASK_PARTS = {
    "segmentation": (SegmentationTask, SegmentationLoss, SegmentationValidator),
    "detection": (DetectionTask, DetectionLoss, DetectionValidator),
}
"""Task, loss and validator of each of TASKS."""
_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = make_arguments().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(COMMAND, lambda: _main(args))


def make_arguments() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(COMMAND, __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    titles = ("data", "network and loss", "batches", "training")
    for config, title in zip(CONFIGS, titles, strict=True):
        add_flags(parser, config, title)
    return parser


def train(job: Job, ranks: Ranks = ALONE) -> FitResult:
    """Trains one network from a store, together with other ranks where there are any.

    Raises:
        LatentStoreError: If the flags contradict each other or the store lacks what they ask for;
            see `fit` for what can happen later.
    """
    trainer = job.trainer
    require_batch_norm(job.model.task, job.loader, trainer)
    inputs = find_inputs(job)
    torch.manual_seed(trainer.seed)
    network = build_network(network_config(job, inputs))
    source = StoreSource(source_spec(job, inputs, job.data.split))
    loader = StoreLoader(
        source,
        job.loader,
        seed=trainer.seed,
        pin_memory=ranks.device(trainer.device).type == "cuda",
        ranks=ranks,
    )
    initialise_network(network, job, inputs, source)
    validator = make_validator(job, inputs, ranks)
    end = job.model.temperature if job.model.temperature_end is None else job.model.temperature_end
    make_task, make_loss = TASK_PARTS[job.model.task][:2]
    loss = make_loss(lambda_kd=job.model.lambda_kd, rate_weight=job.model.rate_weight)
    task = make_task(network, loss, seed=trainer.seed, temperature=(job.model.temperature, end))
    try:
        return fit(
            task,
            loader,
            trainer,
            job.output,
            meta=make_meta(job, inputs, network.config),
            run_config=job.resolved(),
            codec_bytes=inputs.store.codec_checkpoint(inputs.spec.codec_id),
            validate=validator,
            resume=job.resume,
            free=FREE,
            ranks=ranks,
        )
    finally:
        loader.close()
        if validator is not None:
            validator.batches.close()


def require_batch_norm(task: str, loader: LoaderConfig, trainer: TrainerConfig) -> None:
    """Refuses batches that batch norm cannot be trained on.

    Raises:
        LatentStoreError: If there is one image in a batch of segmentation.
    """
    if task == "segmentation" and loader.batch_size == 1 and not trainer.freeze_batch_norm:
        raise LatentStoreError(
            "--batch_size 1 cannot train batch norm behind ASPP's image pooling, which then sees "
            "one value a channel: use --batch_size 2 or more, or --freeze_batch_norm"
        )


def network_config(job: Job, inputs: Inputs) -> NetworkConfig:
    """Returns the network's shape; what is not asked for is taken from what it starts from."""
    start = inputs.teacher.config if inputs.teacher is not None else NetworkConfig()
    if job.model.init_from is not None:
        start = load_network(job.model.init_from).config
    model = job.model
    keep = inputs.keep
    return NetworkConfig(
        domain=model.domain,
        task=model.task,
        num_classes=len(inputs.classes),
        backbone=model.backbone or start.backbone,
        aspp_width=model.aspp_width or start.aspp_width,
        fpn_width=model.fpn_width or start.fpn_width,
        box_head_width=model.box_head_width or start.box_head_width,
        anchor_size=model.anchor_size or start.anchor_size,
        dropout=model.dropout,
        auxiliary_head=model.auxiliary_head,
        selection=model.selection,
        latent_channels=inputs.spec.channels,
        channels=None if keep is None else inputs.ranking.channels(keep),
        cuts=inputs.cuts,
        transform=model.transform,
        transform_activation=model.transform_activation,
        gate_pool=model.gate_pool,
        gate_bias=model.gate_bias,
    )


def source_spec(job: Job, inputs: Inputs, split: str) -> SourceSpec:
    """Returns what is read of a split, for training, or of another one for validation."""
    training = split == job.data.split
    model = job.model
    distils = training and model.domain == "latent" and model.lambda_kd > 0
    return SourceSpec(
        url=job.data.store,
        split=f"{job.data.dataset}/{split}",
        task=model.task,
        domain=model.domain,
        codec_id=inputs.spec.codec_id,
        ranking_id=model.mask,
        keep=inputs.keep,
        teacher_id=inputs.teacher_id if distils else None,
        gate_pool=model.gate_pool if model.selection == "dynamic" else None,
        num_classes=len(inputs.classes),
        views=training and job.loader.views,
        max_samples=job.loader.max_samples if training else job.data.val_max_samples,
        cache_mb=job.loader.cache_mb,
    )


def initialise_network(
    network: torch.nn.Module, job: Job, inputs: Inputs, source: StoreSource
) -> None:
    """Gives the network the weights and the statistics that it starts with."""
    if isinstance(network, LatentNetwork):
        initialise.set_statistics(network, source)
    if job.model.init_from is not None:
        fresh = initialise.start_from_network(network, load_network(job.model.init_from))
        if fresh:
            _LOG.info("stay fresh: %s", ", ".join(fresh))
    elif inputs.teacher is not None:
        fresh = initialise.start_from_teacher(network, inputs.teacher)
        if fresh:
            _LOG.info(
                "the teacher was trained for %s: stay fresh: %s",
                inputs.teacher.config.task,
                ", ".join(fresh),
            )
    elif job.model.pretrained != NONE:
        initialise.start_from_pretrained(network, job.model.pretrained)


def make_validator(job: Job, inputs: Inputs, ranks: Ranks = ALONE) -> NetworkValidator | None:
    """Returns the validator, or None without a split to validate on.

    Raises:
        StoreNotFoundError: If a split was asked for by name and is not there.
    """
    split = job.data.val_split or "val"
    name = f"{job.data.dataset}/{split}"
    present = name in inputs.store.splits()
    if split == NONE or (job.data.val_split is None and not present):
        return None
    if not present:
        raise StoreNotFoundError(
            f"{inputs.store.url} has no split {name} (it has: {', '.join(inputs.store.splits())}): "
            "give another --val_split, or --val_split none"
        )
    source = StoreSource(source_spec(job, inputs, split))
    make = TASK_PARTS[job.model.task][2]
    return make(WholeImages(source, ranks=ranks), inputs.classes, ranks=ranks)


def make_meta(job: Job, inputs: Inputs, config: NetworkConfig) -> dict[str, Any]:
    """Returns the checkpoint's meta."""
    return {
        "kind": "network",
        "dataset": job.data.dataset,
        "codec_id": inputs.spec.codec_id,
        "codec_identity": inputs.spec.identity,
        "ranking_id": job.model.mask,
        "channels": None if config.channels is None else list(config.channels),
        "teacher_id": inputs.teacher_id,
        "class_names": list(inputs.classes),
        "label": job.model.label or _default_label(job.model),
    }


def _main(args: argparse.Namespace) -> int:
    data, model, loader, trainer = (read_flags(args, config) for config in CONFIGS)
    job = Job(
        data=data,
        model=model,
        loader=loader,
        trainer=trainer,
        output=args.output,
        resume=args.resume,
    )
    with joined() as ranks:
        if not ranks.first:
            logging.disable(logging.INFO)
        result = train(job, ranks)
    if not ranks.first:
        return 0
    score = f"{headline(result.scores)}, " if result.scores else ""
    print(
        f"{result.checkpoint}: {score}{result.step} steps in {result.seconds:.0f} s, "
        f"{result.wait_share:.0%} of it waiting for data"
    )
    return 0


def _default_label(model: ModelConfig) -> str:
    if model.domain == "pixel":
        return "pixel (trained on decoded)"
    name = {
        "none": "no gate",
        "dynamic": "dynamic" + (" (rate-aware)" if model.rate_weight else ""),
        "static": f"static-{model.keep} ({model.mask})",
        "any": f"any ({model.mask})",
    }[model.selection]
    name += " res" if model.transform == "res" else ""
    return name + (" fine-tuned" if model.init_from is not None else "")


if __name__ == "__main__":
    sys.exit(main())
