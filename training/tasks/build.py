"""Composes a network with the tail of its task."""

from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork, PixelNetwork
from training.tasks.registry import find_task


def build_network(config: NetworkConfig) -> PixelNetwork | LatentNetwork:
    """Returns a network with fresh weights, in training mode."""
    kind = PixelNetwork if config.domain == "pixel" else LatentNetwork
    return kind(config, find_task(config.task).build_parts)
