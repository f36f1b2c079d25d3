"""Composes a network with the tail of its task."""

from latent_store.errors import LatentStoreError
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork, PixelNetwork
from training.tasks.registry import find_task


def build_network(config: NetworkConfig) -> PixelNetwork | LatentNetwork:
    """Returns a network with fresh weights, in training mode.

    Raises:
        LatentStoreError: The config asks for a head that its task's networks have not.
    """
    if config.auxiliary_head and "auxiliary_head" not in find_task(config.task).fields:
        raise LatentStoreError(
            f"--auxiliary_head is an FCN head, which segments; got --task {config.task}"
        )
    kind = PixelNetwork if config.domain == "pixel" else LatentNetwork
    return kind(config, find_task(config.task).build_parts)
