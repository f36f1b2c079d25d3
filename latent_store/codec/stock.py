"""The one door to CompressAI: every name that this package takes from it.

Nothing is imported with this module, but a name where it is first used; so take this module, not a
name out of it:

    from latent_store.codec import stock
    stock.GDN(192)

And then not all of CompressAI, which takes longer than torch: see `deferred`. Where all of it is
imported, torch_geometric warns of a deprecated function of torch; users can do nothing about that,
so the warning stays behind this door.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from latent_store.codec.deferred import deferred
from latent_store.extras import import_with_extra

if TYPE_CHECKING:
    from compressai.ans import RansDecoder as RansDecoder
    from compressai.ans import RansEncoder as RansEncoder
    from compressai.layers import GDN as GDN
    from compressai.layers import ResidualBlock as ResidualBlock
    from compressai.layers import ResidualBlockUpsample as ResidualBlockUpsample
    from compressai.models.base import get_scale_table as get_scale_table
    from compressai.models.google import MeanScaleHyperprior as MeanScaleHyperprior
    from compressai.models.google import ScaleHyperprior as ScaleHyperprior
    from compressai.models.utils import remap_old_keys as remap_old_keys
    from compressai.zoo.image import model_urls as model_urls
    from compressai.zoo.pretrained import load_pretrained as load_pretrained

_HOMES = {
    "RansDecoder": "compressai.ans",
    "RansEncoder": "compressai.ans",
    "GDN": "compressai.layers",
    "ResidualBlock": "compressai.layers",
    "ResidualBlockUpsample": "compressai.layers",
    "MeanScaleHyperprior": "compressai.models.google",
    "ScaleHyperprior": "compressai.models.google",
    "get_scale_table": "compressai.models.base",
    "remap_old_keys": "compressai.models.utils",
    "model_urls": "compressai.zoo.image",
    "load_pretrained": "compressai.zoo.pretrained",
}


_ENTROPY_CODERS = {
    "available_entropy_coders": lambda: ["ans"],
    "get_entropy_coder": lambda: "ans",
}
"""What its `__init__` defines and the hyperprior asks for, as it is unless somebody changes it."""
_NEEDED = ("ans", "layers", "models.google", "zoo.pretrained")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
        _import_what_is_needed()
        value = getattr(import_with_extra(_HOMES[name], "codec"), name)
    globals()[name] = value  # from now on it is found without this function
    return value


@functools.cache
def _import_what_is_needed() -> None:
    """Imports the modules of the hyperprior without the rest; without success, all is as before."""
    packages: dict[str, dict[str, Any]] = {"compressai": _ENTROPY_CODERS}
    packages |= {f"compressai.{name}": {} for name in ("registry", "models", "zoo")}
    with contextlib.suppress(ImportError, AttributeError), deferred("compressai", packages):
        # Modules register what they define, in a table that asks for no torch_geometric.
        registry = importlib.import_module("compressai.registry")
        tables = importlib.import_module("compressai.registry.torch")
        vars(registry).update({k: v for k, v in vars(tables).items() if k.startswith("register_")})
        for name in _NEEDED:
            importlib.import_module(f"compressai.{name}")
