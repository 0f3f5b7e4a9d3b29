"""Runs a callback when a module is imported for the first time.

So the worker can fit itself into a library (bind ``comm``, give asyncio its loop) when the user's
code asks for that library, and pay nothing when it does not.

The worker itself needs these modules, so an interrupt waits for the end of their import: Python
keeps what a package had loaded when its import was cut short, and then fails to import it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["guard_imports", "when_imported"]

Callback = Callable[[ModuleType], None]


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}
        self.guard: AbstractContextManager[None] = nullcontext()
        self.finished: dict[str, ModuleType] = {}

    def take(self, name: str) -> list[Callback]:
        return self._callbacks.pop(name, [])

    def add(self, name: str, callback: Callback) -> None:
        self._callbacks.setdefault(name, []).append(callback)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (module := self.finished.pop(fullname, None)) is not None:
            return ModuleSpec(fullname, _Finished(module))
        if fullname not in self._callbacks:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None  # not installed now; perhaps later


class _Loader(Loader):
    """A module's own loader, and the callbacks after it."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module shows the loader that it would have without us.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        finished = False
        try:
            with self._finder.guard:
                self._loader.exec_module(module)
                for callback in self._finder.take(module.__name__):
                    callback(module)
                finished = True
        except KeyboardInterrupt:
            # Put off until now, it still fails the import, and Python forgets the module.
            if finished:
                self._finder.finished[module.__name__] = module
            raise


class _Finished(Loader):
    """Gives a module that was executed already, as the next import of it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


_finder = _Finder()


def guard_imports(guard: AbstractContextManager[None]) -> None:
    """Enter ``guard`` while such a module is imported; it puts interrupts off."""
    _finder.guard = guard


def when_imported(name: str, callback: Callback) -> None:
    """Call ``callback(module)`` once the module is imported; at once if it is already."""
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
        return
    _finder.add(name, callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
