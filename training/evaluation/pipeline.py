"""One network on one split: from the store's streams to maps or boxes, and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.evaluation.candidates import Candidate
from training.evaluation.evaluation_split import Bench
from training.selection.gated import split_gate
from training.selection.rates import ImageRate, StoredStreams, StreamReceiver
from training.tasks.detection_metrics import Detections
from training.trainer.checkpoints import load_network
from training.transmission.inference import (
    Output,
    detect_latents,
    require_finite_weights,
    segment_latents,
)


class Pipeline:
    """One candidate's way from the store's streams to maps or detections."""

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
    ) -> tuple[list[Output], tuple[ImageRate, ...]]:
        """Returns what the task wants, at original size, and rates, of rows of one coded size.

        That is a map, uint8 [H, W], or `Detections`.
        """
        if self.candidate.config.task == "detection":
            return self.detect(rows, size)
        maps_BHW, rates = self.segment(rows, size)
        sizes = self.bench.split.sizes(rows).tolist()
        cropped = [map_HW[:h, :w] for map_HW, (h, w) in zip(maps_BHW, sizes, strict=True)]
        return cropped, rates

    def segment(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[ImageRate, ...]]:
        """Returns maps at coded size, uint8 [B, H, W], and rates, of rows of one coded size."""
        received = self.receiver.receive(rows, size)
        y_hat_BCHW = torch.from_numpy(np.ascontiguousarray(received.y_hat_BCHW))
        return self.maps(y_hat_BCHW).cpu().numpy(), received.rates

    def detect(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[list[Detections], tuple[ImageRate, ...]]:
        """Returns detections, in pixels of the original pictures, and rates."""
        received = self.receiver.receive(rows, size)
        y_hat_BCHW = torch.from_numpy(np.ascontiguousarray(received.y_hat_BCHW))
        valid_B2 = torch.from_numpy(self.bench.split.sizes(rows).astype(np.int64))
        found = detect_latents(self.network, y_hat_BCHW, valid_B2, **self._how)
        return found, received.rates

    def maps(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns maps of decoded latents, uint8 [B, 16h, 16w]."""
        return segment_latents(self.network, y_hat_BCHW, **self._how)

    @property
    def _how(self) -> dict[str, Any]:
        codec = self.codec if self.candidate.config.domain == "pixel" else None
        return {"codec": codec, "device": self.device, "name": str(self.candidate.path)}

    def _receiver(self) -> StreamReceiver:
        candidate, bench = self.candidate, self.bench
        codec_id, ranking_id = candidate.spec.codec_id, candidate.ranking_id
        streams = StoredStreams(
            codec=self.codec,
            latents=bench.latents(codec_id),
            ranked=None if ranking_id is None else bench.ranked(codec_id, ranking_id),
            decode=bench.options.decode,
        )
        gate = split_gate(self.network)
        return candidate.config.channel_selection.receiver(streams, candidate.keep, gate)
