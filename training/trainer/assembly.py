"""The assembly of a run on a store: network, loaders, initial weights and validator, from flags."""

import logging
from typing import Any

import torch

from latent_store.codec import codec_from_store
from latent_store.errors import LatentStoreError, StoreNotFoundError
from training.data.loader import CropLoader, LoaderConfig, WholeImages
from training.data.store_source import SourceSpec, StoreSource
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork, Network
from training.selection.registry import find_selection
from training.tasks.base import Task
from training.tasks.objective import Objective
from training.tasks.registry import build_network, find_task
from training.trainer import computed_start, initialise
from training.trainer.checkpoints import load_network
from training.trainer.inputs import Inputs, find_inputs
from training.trainer.job import FREE, NONE, Job, ModelConfig
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run_folder import RunFolder
from training.trainer.run_state import FitResult
from training.trainer.trainer import Trainer
from training.trainer.trainer_config import TrainerConfig
from training.trainer.validation import Validator

_LOG = logging.getLogger(__name__)


def train(job: Job, ranks: Ranks = ALONE) -> FitResult:
    """Trains one network from a store, together with other ranks where there are any.

    Raises:
        LatentStoreError: If the flags contradict each other or the store lacks what they ask for;
            see `Trainer.fit` for what can happen later.
    """
    config, task = job.trainer, find_task(job.model.task)
    require_batch_norm(task, job.loader, config)
    inputs = find_inputs(job)
    torch.manual_seed(config.seed)
    network = build_network(network_config(job, inputs))
    source = StoreSource(source_spec(job, inputs, job.data.split))
    loader = CropLoader(
        source,
        job.loader,
        seed=config.seed,
        pin_memory=ranks.device(config.device).type == "cuda",
        share=ranks,
    )
    initialise_network(network, job, inputs, source)
    folder = RunFolder(
        job.output,
        meta=make_meta(job, inputs, network.config),
        config=job.resolved(),
        free=FREE,
        codec_bytes=inputs.store.codec_checkpoint(inputs.spec.codec_id),
    )
    if not folder.holds_run():
        start_transform(network, job, inputs, source, ranks)
    validator = make_validator(job, inputs, ranks)
    end = job.model.temperature if job.model.temperature_end is None else job.model.temperature_end
    loss = task.loss(lambda_kd=job.model.lambda_kd, rate_weight=job.model.rate_weight)
    temperature = (job.model.temperature, end)
    objective = Objective(task, network, loss, seed=config.seed, temperature=temperature)
    try:
        trainer = Trainer(objective, loader, config, folder, validate=validator, ranks=ranks)
        return trainer.fit(resume=job.resume)
    finally:
        loader.close()
        if validator is not None:
            validator.batches.close()


def require_batch_norm(task: Task, loader: LoaderConfig, trainer: TrainerConfig) -> None:
    """Refuses batches that batch norm cannot be trained on.

    Raises:
        LatentStoreError: If there is one image in a batch, and that is too few for the task.
    """
    if task.why_not_one_image and loader.batch_size == 1 and not trainer.freeze_batch_norm:
        raise LatentStoreError(
            f"{task.why_not_one_image}: use --batch_size 2 or more, or --freeze_batch_norm"
        )


def network_config(job: Job, inputs: Inputs) -> NetworkConfig:
    """Returns the network's shape; what is not asked for is taken from what it starts from."""
    start = inputs.teacher.config if inputs.teacher is not None else NetworkConfig()
    if job.model.init_from is not None:
        start = load_network(job.model.init_from).config
    model = job.model
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
        transform=model.transform,
        transform_activation=model.transform_activation,
        **vars(inputs.selection),
    )


def source_spec(job: Job, inputs: Inputs, split: str, *, held: bool = False) -> SourceSpec:
    """Returns what is read for training, of another split, or of what is `held` out of training."""
    training = split == job.data.split and not held
    model = job.model
    distils = training and model.domain == "latent" and model.lambda_kd > 0
    return SourceSpec(
        url=job.data.store,
        split=f"{job.data.dataset}/{split}",
        annotations=find_task(model.task).annotations(num_classes=len(inputs.classes)),
        domain=model.domain,
        codec_id=inputs.spec.codec_id,
        stored=inputs.selection.stored(model.mask),
        teacher_id=inputs.teacher_id if distils else None,
        hold_out=(job.data.hold_out or ()) if split == job.data.split else (),
        held=held,
        views=training and job.loader.views,
        max_samples=job.loader.max_samples if training else job.data.val_max_samples,
        cache_mb=job.loader.cache_mb,
    )


def initialise_network(network: Network, job: Job, inputs: Inputs, source: StoreSource) -> None:
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


def start_transform(
    network: Network,
    job: Job,
    inputs: Inputs,
    source: StoreSource,
    ranks: Ranks = ALONE,
) -> None:
    """Computes, or distils, the weights that the transform starts with.

    Raises:
        LatentStoreError: If that is asked for and the network, or the store, has not what it needs.
    """
    how = job.model.transform_init
    possible = isinstance(network, LatentNetwork) and source.teacher is not None
    if how in (None, "fresh") and (how or not possible or job.model.init_from is not None):
        return
    if not possible or job.model.init_from is not None:
        raise LatentStoreError(
            f"--transform_init {how} fits the transform to a teacher's features: it goes with "
            "--domain latent, stored features, --lambda_kd above 0 and without --init_from; else "
            "give --transform_init fresh"
        )
    assert isinstance(network, LatentNetwork)  # what else is not possible
    form = computed_start.can_be_computed(network)
    if how == "computed" and not form:
        raise LatentStoreError(
            f"--transform_init computed is for --transform deconv, got {job.model.transform}: give "
            "--transform_init distilled, or fresh"
        )
    if form:
        codec = codec_from_store(inputs.store, inputs.spec.codec_id)
        computed_start.compute_start(network, source, codec, images=job.model.fit_images)
    if how == "computed" or not job.model.distil_steps:
        return
    # Every rank does the same on whole batches: it is a minute, and there is nothing to exchange.
    loader = CropLoader(source, job.loader, seed=job.trainer.seed)
    try:
        computed_start.distil(
            network,
            loader.stream(0, 0),
            steps=job.model.distil_steps,
            learning_rate=job.trainer.learning_rate,
            seed=job.trainer.seed,
            device=ranks.device(job.trainer.device),
        )
    finally:
        loader.close()


def make_validator(job: Job, inputs: Inputs, ranks: Ranks = ALONE) -> Validator | None:
    """Returns the validator, or None without a split to validate on.

    Raises:
        StoreNotFoundError: If a split was asked for by name and is not there.
    """
    held = bool(job.data.hold_out) and job.data.val_split is None
    split = job.data.split if held else job.data.val_split or "val"
    name = f"{job.data.dataset}/{split}"
    present = name in inputs.store.splits()
    if split == NONE or (job.data.val_split is None and not present):
        return None
    if not present:
        raise StoreNotFoundError(
            f"{inputs.store.url} has no split {name} (it has: {', '.join(inputs.store.splits())}): "
            "give another --val_split, or --val_split none"
        )
    source = StoreSource(source_spec(job, inputs, split, held=held))
    whole = WholeImages(source, share=ranks)
    return Validator(find_task(job.model.task), whole, inputs.classes, ranks=ranks)


def make_meta(job: Job, inputs: Inputs, config: NetworkConfig) -> dict[str, Any]:
    """Returns the checkpoint's meta."""
    return {
        "kind": "network",
        "dataset": job.data.dataset,
        "codec_id": inputs.spec.codec_id,
        "codec_identity": inputs.spec.identity,
        "ranking_id": job.model.mask,
        "channels": config.to_dict()["channels"],
        "teacher_id": inputs.teacher_id,
        "class_names": list(inputs.classes),
        "label": job.model.label or _default_label(job.model),
    }


def _default_label(model: ModelConfig) -> str:
    if model.domain == "pixel":
        return "pixel (trained on decoded)"
    name = find_selection(model.selection).label(model)
    name += " res" if model.transform == "res" else ""
    return name + (" fine-tuned" if model.init_from is not None else "")
