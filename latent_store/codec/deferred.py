"""Packages whose `__init__` waits until somebody needs what it alone defines.

CompressAI's imports all that it has, torch_geometric and torchvision among it, which takes longer
than torch itself; its scale hyperprior needs a tenth of that. A deferred package finds its modules
as ever. A name that is neither one of them nor given runs its `__init__`, from when on it is the
package that it would have been, with the modules that are loaded already.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

_whole = threading.RLock()


class DeferredPackage(ModuleType):
    """A package whose `__init__` has not run."""

    def __getattr__(self, name: str) -> Any:
        asked_by_python = name.startswith("__") and name not in ("__all__", "__version__")
        if asked_by_python or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = f"{self.__name__}.{name}"
        if importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
        with _whole:
            if isinstance(self, DeferredPackage):  # Or another thread was here before.
                self.__class__ = ModuleType  # type: ignore[assignment]
                self.__spec__.loader.exec_module(self)
        return getattr(self, name)


@contextlib.contextmanager
def deferred(top: str, packages: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Defers packages before a block imports modules of theirs.

    Where the block fails, as with another release, whose modules need more, all is undone: the
    packages are imported whole then. Nothing is done where the top package is there already.

    Args:
        top: Name of the outermost package.
        packages: Those to defer, `top` first, with what is given of each.
    """
    if top in sys.modules:
        yield
        return
    try:
        for name, given in packages.items():
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            package = importlib.util.module_from_spec(spec)
            package.__class__ = DeferredPackage
            vars(package).update(given)
            sys.modules[name] = package
        yield
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == top]:
            del sys.modules[name]
        raise
