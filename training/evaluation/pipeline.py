"""One network on one split: from the store's streams to predictions, and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.evaluation.candidates import Candidate
from training.evaluation.evaluation_split import Bench
from training.selection.gated import split_gate
from training.selection.rates import ImageRate, StoredStreams, StreamReceiver
from training.trainer.checkpoints import load_network
from training.transmission.inference import predict, require_finite_weights


class Pipeline:
    """One candidate's way from the store's streams to predictions."""

    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        self.bench = bench
        self.candidate = candidate
        self.device = torch.device(bench.options.device)
        self.network = load_network(candidate.path, map_location=bench.options.device).network
        require_finite_weights(self.network, str(candidate.path))
        self.codec = bench.codec(candidate.spec.codec_id)
        self.receiver = self._receiver()

    def outputs(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[list[Any], tuple[ImageRate, ...]]:
        """Returns predictions and rates of rows of one coded size."""
        received = self.receiver.receive(rows, size)
        predictions = predict(
            self.bench.task,
            self.network,
            torch.from_numpy(np.ascontiguousarray(received.y_hat_BCHW)),
            self.bench.split.sizes(rows).tolist(),
            self.codec if self.candidate.config.domain == "pixel" else None,
            self.device,
            name=str(self.candidate.path),
        )
        return predictions, received.rates

    def _receiver(self) -> StreamReceiver:
        candidate, bench = self.candidate, self.bench
        codec_id, ranking_id = candidate.spec.codec_id, candidate.ranking_id
        streams = StoredStreams(
            codec=self.codec,
            latents=bench.latents(codec_id),
            ranked=None if ranking_id is None else bench.ranked(ranking_id, codec_id),
            decode=bench.options.decode,
        )
        gate = split_gate(self.network)
        return candidate.config.channel_selection.receiver(streams, candidate.keep, gate)
