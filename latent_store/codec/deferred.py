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
_running: set[str] = set()
"""Packages whose `__init__` runs, by the thread that holds the lock."""


class DeferredPackage(ModuleType):
    """A package whose `__init__` has not run."""

    def __getattr__(self, name: str) -> Any:
        asked_by_python = name.startswith("__") and name not in ("__all__", "__version__")
        if asked_by_python or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            module = f"{self.__name__}.{name}"
            if importlib.util.find_spec(module) is not None:
                return importlib.import_module(module)
            self._run()
        except Exception as error:
            # Who asks every module for a name, as pickle does, knows no other error.
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r} "
                f"({type(error).__name__}: {error})"
            ) from error
        if isinstance(self, DeferredPackage):  # Its `__init__` runs, and has not defined it yet.
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        return getattr(self, name)

    def _run(self) -> None:
        """Runs `__init__`; where it fails, it is run again for who asks next."""
        with _whole:
            if not isinstance(self, DeferredPackage) or self.__name__ in _running:
                return  # Another thread was here before, or it is asked for by itself.
            _running.add(self.__name__)
            try:
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
            finally:
                _running.discard(self.__name__)
            self.__class__ = ModuleType  # type: ignore[assignment]


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
