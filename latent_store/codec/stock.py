"""The one door to CompressAI: every name that this package takes from it.

Importing CompressAI takes seconds, since it imports all of torch_geometric. So nothing is imported
with this module, but a name where it is first used; take this module, not a name out of it:

    from latent_store.codec import stock
    stock.GDN(192)

What torch_geometric warns of is a deprecated function of torch: its users can do nothing about
that, so the warning stays behind this door.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressai.ans import RansDecoder as RansDecoder
    from compressai.ans import RansEncoder as RansEncoder
    from compressai.layers import GDN as GDN
    from compressai.layers import ResidualBlock as ResidualBlock
    from compressai.layers import ResidualBlockUpsample as ResidualBlockUpsample
    from compressai.models import ScaleHyperprior as ScaleHyperprior
    from compressai.models.base import get_scale_table as get_scale_table
    from compressai.models.utils import remap_old_keys as remap_old_keys
    from compressai.zoo.image import model_urls as model_urls
    from compressai.zoo.pretrained import load_pretrained as load_pretrained

_HOMES = {
    "RansDecoder": "compressai.ans",
    "RansEncoder": "compressai.ans",
    "GDN": "compressai.layers",
    "ResidualBlock": "compressai.layers",
    "ResidualBlockUpsample": "compressai.layers",
    "ScaleHyperprior": "compressai.models",
    "get_scale_table": "compressai.models.base",
    "remap_old_keys": "compressai.models.utils",
    "model_urls": "compressai.zoo.image",
    "load_pretrained": "compressai.zoo.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # from now on it is found without this function
    return value
