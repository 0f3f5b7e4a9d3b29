"""Modules that are there before they are imported.

Libraries look for ``"ipykernel.zmqshell" in sys.modules`` to tell a notebook (tqdm does), or for
``"ipykernel"``. Importing them costs more than a tenth of a second, so stand-ins are there
instead. One becomes the module itself, in place, when somebody asks it for anything of its own.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["stand_in_for"]

_lock = threading.RLock()
_under_way: set[str] = set()
# Asked for by those who walk through all modules, as inspect and autoreload do. Others do load.
_LOADING = frozenset({"__path__", "__all__", "__version__"})


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _LOADING:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        _become_itself(self)
        return object.__getattribute__(self, name)


def stand_in_for(name: str) -> None:
    """Put a stand-in for a module into ``sys.modules``, unless the module is there."""
    if name not in sys.modules:
        module = _StandIn(name)
        module.__spec__ = ModuleSpec(name, None)  # importlib.util.find_spec gives this one
        sys.modules[name] = module


def _become_itself(module: ModuleType) -> None:
    name = module.__name__
    with _lock:
        # Another thread may have been first; this one may be in the middle of it.
        if type(module) is _StandIn and name not in _under_way:
            _under_way.add(name)
            try:
                _load(module)
                module.__class__ = ModuleType  # type: ignore[assignment]
            finally:
                _under_way.discard(name)


def _load(module: ModuleType) -> None:
    name = module.__name__
    package, _, last = name.rpartition(".")
    spec = _find(name, sys.modules[package].__path__ if package else None)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = spec.parent
    if spec.origin is not None:
        module.__file__ = spec.origin
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    assert spec.loader is not None
    spec.loader.exec_module(module)
    # The import system would have done this for a submodule that it has imported itself.
    if package:
        setattr(sys.modules[package], last, module)
    for other, submodule in list(sys.modules.items()):
        if type(submodule) is _StandIn and other.rpartition(".")[0] == name:
            setattr(module, other.rpartition(".")[2], submodule)


def _find(name: str, path: Any) -> ModuleSpec:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            return spec
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
