"""One network on one split: from the store's streams to maps or boxes, and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.evaluation.candidates import Candidate
from training.evaluation.evaluation_split import Bench
from training.tasks.detection_metrics import Detections
from training.tasks.sample_results import ImageRate
from training.trainer.checkpoints import load_network
from training.transmission.inference import (
    Output,
    choose_channels,
    detect_latents,
    require_finite_weights,
    segment_latents,
    split_gate,
)
from training.transmission.rates import ChosenStreams, Receiver, ScalableStreams, WholeStreams


class Pipeline:
    """One candidate's way from the store's streams to maps or detections."""

    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        self.bench = bench
        self.candidate = candidate
        self.device = torch.device(bench.options.device)
        self.network = load_network(candidate.path, map_location=bench.options.device).network
        require_finite_weights(self.network, str(candidate.path))
        self.codec = bench.codec(candidate.spec.codec_id)
        self.gate = split_gate(self.network)
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

    def _receiver(self) -> Receiver:
        codec, decode = self.codec, self.bench.options.decode
        latents = self.bench.latents(self.candidate.spec.codec_id)
        config = self.candidate.config
        if config.channels is not None:
            ranked = self.bench.ranked(latents.spec.codec_id, str(self.candidate.ranking_id))
            channels = config.channels[: self.candidate.keep]
            return ScalableStreams(codec, latents, ranked, channels, decode)
        if self.gate is not None:
            return ChosenStreams(codec, latents, self._choose, decode)
        return WholeStreams(codec, latents, decode)

    def _choose(self, rows: np.ndarray) -> np.ndarray:
        latents = self.bench.latents(self.candidate.spec.codec_id)
        pooled_BC = latents.column(f"channel_{self.candidate.config.gate_pool}", rows)
        return choose_channels(self.gate, torch.from_numpy(pooled_BC).to(self.device))
