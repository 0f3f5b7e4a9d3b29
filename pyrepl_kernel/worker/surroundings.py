"""Where a worker works: its directory, its environment, its arguments.

A worker may be made long before it is known for whom, and a template is shared by many. So what it
was born with is replaced when it is handed over. What the warmup itself has changed is kept, as if
it had run in the new surroundings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyrepl_kernel.protocol.messages import HandOverMessage, StartMessage
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["Surroundings", "begin_here", "introduce"]

_INSTALLED = ("site-packages", "dist-packages")
_INLINE = "module://matplotlib_inline.backend_inline"
_FOR_CHILDREN = {
    "TERM": "xterm-color",
    "CLICOLOR": "1",
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}
"""Colours for child processes that know them, and no pagers."""


class Surroundings:
    """A worker's surroundings.

    Attributes:
        has_moved: Whether the warmup has changed the directory.
    """

    def __init__(self) -> None:
        self.has_moved = False
        self._changes: dict[str, str | None] = {}
        _prepare_path()
        _prepare_environment()

    def enter(self, start: StartMessage) -> None:
        """Apply what the start message says.

        Raises:
            OSError: There is no such directory.
        """
        if start.env_is_whole and start.env is not None:
            self._replace_environment(start.env)
        elif start.env:
            os.environ.update(start.env)
            _prepare_environment()
        if start.cwd is not None and not self.has_moved:
            os.chdir(start.cwd)
        sys.argv = list(start.options.get("argv") or ["pyrepl_kernel"])

    def take_over(self, message: HandOverMessage) -> None:
        """Apply what a hand-over says.

        Raises:
            OSError: There is no such directory.
        """
        if message.env is not None:
            self._replace_environment(message.env)
        os.environ.update(message.variables)
        if message.cwd is not None:
            os.chdir(message.cwd)
        if "argv" in message.options:
            sys.argv = list(message.options["argv"])

    @contextmanager
    def watch_warmup(self) -> Iterator[None]:
        """What changes within is the warmup's doing."""
        before, directory = dict(os.environ), _working_directory()
        try:
            yield
        finally:
            after = dict(os.environ)
            names = before.keys() | after.keys()
            self._changes = {
                name: after.get(name) for name in names if before.get(name) != after.get(name)
            }
            self.has_moved = _working_directory() != directory

    def _replace_environment(self, env: Mapping[str, str]) -> None:
        wanted = {name: value for name, value in env.items() if name not in self._changes}
        wanted |= {name: value for name, value in self._changes.items() if value is not None}
        # What is the same already is not written again: a fork has each page to itself that it
        # writes to.
        for name in list(os.environ):
            if name not in wanted:
                del os.environ[name]
        _set_variables(wanted)
        _prepare_environment()


def introduce(shell: ZMQInteractiveShell, options: Mapping[str, Any]) -> None:
    """Tell IPython for whom it works; options that are not given stay as they are."""
    if "connection_file" in options:
        shell.connection_file = options["connection_file"]
        # What some libraries look for instead of the shell's class.
        shell.config.IPKernelApp.connection_file = shell.connection_file
    if "session" in options:
        shell.session_name = options["session"]
    notebook = os.environ.get("JPY_SESSION_NAME")
    if notebook:
        shell.user_ns["__session__"] = notebook
    else:
        shell.user_ns.pop("__session__", None)


def begin_here(shell: ZMQInteractiveShell) -> None:
    """Let what IPython remembers of directories begin with this one."""
    directory = _working_directory()
    shell.starting_dir = directory
    shell.history_manager.dir_hist[:] = [Path(directory)]


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # it was removed


def _prepare_path() -> None:
    if "" not in sys.path:
        # As under ipykernel: modules of the working directory, wherever that may move to, come
        # before what is installed, but after the standard library.
        ends = [n for n, path in enumerate(sys.path) if path.endswith(_INSTALLED)]
        sys.path.insert(ends[0] if ends else 0, "")


def _prepare_environment() -> None:
    if not os.environ.get("MPLBACKEND"):
        os.environ["MPLBACKEND"] = _INLINE
    # The layer that it takes by itself is one that a forked process cannot use.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "forksafe")
    _set_variables(_FOR_CHILDREN)


def _set_variables(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
