"""One network on one split: from the store's streams to predictions, and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.networks_to_evaluate import EvaluatedNetwork
from training.selection.gated import split_gate
from training.selection.rates import ImageRate, StoredStreams, StreamReceiver
from training.trainer.checkpoints import load_network
from training.transmission.inference import predict, require_finite_weights


class Pipeline:
    """The way of one network from the store's streams to predictions."""

    def __init__(self, split: EvaluationSplit, evaluated: EvaluatedNetwork) -> None:
        self.split = split
        self.evaluated = evaluated
        self.device = torch.device(split.options.device)
        self.network = load_network(evaluated.path, map_location=split.options.device).network
        require_finite_weights(self.network, str(evaluated.path))
        self.codec = split.codec(evaluated.spec.codec_id)
        self.receiver = self._receiver()

    def outputs(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[list[Any], list[ImageRate]]:
        """Returns predictions and rates of rows of one coded size."""
        y_hat_BCHW, rates = self.receiver.receive(rows, size)
        predictions = predict(
            self.split.task,
            self.network,
            torch.from_numpy(np.ascontiguousarray(y_hat_BCHW)),
            self.split.stored.sizes(rows).tolist(),
            self.codec if self.evaluated.config.domain == "pixel" else None,
            self.device,
            name=str(self.evaluated.path),
        )
        return predictions, rates

    def _receiver(self) -> StreamReceiver:
        evaluated, split = self.evaluated, self.split
        codec_id, ranking_id = evaluated.spec.codec_id, evaluated.ranking_id
        streams = StoredStreams(
            codec=self.codec,
            latents=split.latents(codec_id),
            ranked=None if ranking_id is None else split.ranked(ranking_id, codec_id),
            decode=split.options.decode,
        )
        gate = split_gate(self.network)
        return evaluated.config.channel_selection.receiver(streams, evaluated.keep, gate)
