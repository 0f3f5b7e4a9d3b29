"""Notes which installed packages the user's code imports, and imports them again in a spare.

Only imports are learned, never names, and only of what is installed: the user's own modules are
what a restart is there to load anew. What is imported after the user's code has changed the
process's environment is not learned either, for it may have been imported for that change.

    cell ──▶ ImportLog.begin … end ──▶ ImportsMessage ──▶ kernel process, which keeps them
                                                             │
    a spare's warmup:  import_all(names)  ◀──────────────────┘

A session that was made with such a warmup starts with what that has imported: its own list is the
same and what comes to it, or its second restart would be cold.
"""

from __future__ import annotations

import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

from pyrepl_kernel.protocol.messages import ImportsMessage

__all__ = ["ImportLog", "import_all"]

# The debugger's own, which a cell only loads because somebody debugs it; and ipykernel's, which
# stands in sys.modules as something else until it is used.
_NEVER = frozenset(
    "debugpy pydevd _pydevd_bundle _pydev_bundle _pydevd_frame_eval ipykernel pyrepl_kernel".split()
)


_warm: list[str] = []
"""What a warmup has imported in this process, or in the one that it was forked from."""


def import_all(names: Iterable[str]) -> None:
    """Import modules, in this order; those that cannot be are left to whoever needs them.

    None of the user's own is imported, not for an installed package that needs it either: that
    package is left out then.
    """
    finder = _InstalledOnly()
    sys.meta_path.insert(0, finder)
    try:
        for name in names:
            before = set(sys.modules)
            try:
                importlib.import_module(name)
            except (Exception, _UsersOwn):
                # Gone since, or broken: the user's own import will say so, from the beginning.
                _drop(name.partition(".")[0], before)
                continue
            _warm.append(name)
    finally:
        sys.meta_path.remove(finder)


def _drop(package: str, before: set[str]) -> None:
    """Forget what is left of a package that could not be imported to its end."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        if name not in before:
            del sys.modules[name]


class _UsersOwn(BaseException):
    """No ImportError: a package must not go on without what it would have."""


class _InstalledOnly(MetaPathFinder):
    """Finds what all others find, but refuses what is not installed."""

    def __init__(self) -> None:
        self._folders = library_folders()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                origin = spec.origin if spec.has_location else None
                if origin is not None and not origin.startswith(self._folders):
                    raise _UsersOwn(fullname)
                return spec
        return None


def installed_folders() -> tuple[str, ...]:
    """Where packages are installed, each with a separator at its end."""
    paths = sysconfig.get_paths()
    folders = {paths["purelib"], paths["platlib"], *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    return tuple(sorted(os.path.join(folder, "") for folder in folders))


def library_folders() -> tuple[str, ...]:
    """The same, and those of the standard library and of this package."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    more = (sysconfig.get_paths()["stdlib"], own)
    return (*installed_folders(), *(os.path.join(folder, "") for folder in more))


class ImportLog:
    """What the user's code has imported so far, of what is installed.

    Args:
        on_change: Called, between cells, with all that is known.
    """

    def __init__(self, on_change: Callable[[ImportsMessage], None]) -> None:
        self._on_change = on_change
        self._installed = installed_folders()
        self._libraries = library_folders()
        self._known = set(sys.modules)
        self._count = len(sys.modules)
        self._names = list(_warm)
        self._variables: set[str] = set()
        self._told = (len(_warm), 0)
        self._is_learning = True
        self._is_in_cell = False
        _watch_environment(self._environment_changed)

    def begin(self) -> None:
        """A cell is about to run."""
        if len(sys.modules) != self._count:
            self._skip()  # of between the cells: a completion's, say
        self._is_in_cell = True

    def end(self) -> None:
        """It has ended."""
        self._collect()
        self._is_in_cell = False
        known = len(self._names), len(self._variables)
        if known != self._told:
            self._told = known
            names = list(self._names)
            self._on_change(ImportsMessage(names, sorted(self._variables), bool(_warm)))

    def _skip(self) -> None:
        self._known.update(sys.modules)
        self._count = len(sys.modules)

    def _collect(self) -> None:
        if len(sys.modules) == self._count:
            return
        if self._is_learning:
            fresh = [name for name in list(sys.modules) if name not in self._known]
            self._names += [name for name in fresh if self._is_installed(name)]
        self._skip()

    def _is_installed(self, name: str) -> bool:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        origin = getattr(spec, "origin", None)
        return (
            getattr(spec, "name", None) == name  # no alias
            and isinstance(origin, str)
            and origin.startswith(self._installed)
            and name.partition(".")[0] not in _NEVER
        )

    def _environment_changed(self, name: str, frame: FrameType | None) -> None:
        """Called before each change of ``os.environ``, with the frame that makes it."""
        if self._is_in_cell and not self._is_a_librarys(frame):
            if self._is_learning:
                self._collect()  # what came before the change may be learned
                self._is_learning = False
            self._variables.add(name)

    def _is_a_librarys(self, frame: FrameType | None) -> bool:
        """Whether it is code that runs while a library is imported, and not the user's wish."""
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>" or code.co_name.startswith("<cell line"):
                return code.co_filename.startswith(self._libraries)
            frame = frame.f_back
        return False


def _watch_environment(on_change: Callable[[str, FrameType | None], None]) -> None:
    """Have changes of ``os.environ`` reported. What C code changes is not seen."""
    cls: Any = type(os.environ)

    class _Environ(cls):
        def __setitem__(self, key: Any, value: Any) -> None:
            if self.get(key) != value:
                on_change(str(key), sys._getframe(1))
            super().__setitem__(key, value)

        def __delitem__(self, key: Any) -> None:
            on_change(str(key), sys._getframe(1))
            super().__delitem__(key)

    _Environ.__qualname__ = cls.__qualname__
    _Environ.__module__ = cls.__module__
    os.environ.__class__ = _Environ
