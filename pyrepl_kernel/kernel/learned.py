"""``--warmup auto``: what a notebook's cells have imported, remembered with its path.

    <Jupyter's data directory>/pyrepl/imports/<hash of the path>.json

    {"notebook": "/home/me/analysis.ipynb",     the path, for people
     "python": "/usr/bin/python3",              whose packages they are
     "names": ["numpy", …],                     what to import before the first cell
     "variables": ["OMP_NUM_THREADS"]}          what cells have changed after those imports

A module looks at the environment when it is imported. So once a cell has changed a variable,
nothing more is learned in that session; and where a cell changes one in a worker that had modules
ready, and it is not known that it does so after their import, all are forgotten. The next session
then imports everything itself, and learns anew what comes before the change.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pyrepl_kernel.protocol.messages import ImportsMessage
from pyrepl_kernel.session.runtime import data_dir

__all__ = ["LearnedImports", "imports_dir", "warmup_for"]

_MOST_NAMES = 5000
_MOST_BYTES = 1_000_000
_MOST_FILES = 500
"""Notebooks that are remembered; those unused for longest are forgotten first."""


def imports_dir() -> str:
    """Where imports are remembered."""
    return os.path.join(data_dir(), "pyrepl", "imports")


def warmup_for(names: list[str]) -> str:
    """Warmup code that imports modules and leaves no name behind; empty for none."""
    if not names:
        return ""
    call = "__import__('pyrepl_kernel.worker.learned', fromlist=['']).import_all"
    return f"# imports learned by --warmup auto\n{call}({names!r})"


class LearnedImports:
    """What is known of one notebook.

    Args:
        notebook: Its path; empty where there is none, and nothing is remembered then.
        directory: Where files are; ``imports_dir()`` when not given.

    Attributes:
        notebook: The same.
    """

    def __init__(self, notebook: str, directory: str = "") -> None:
        self.notebook = notebook
        self._notices: list[str] = []
        self._has_told = False  # that it cannot be remembered
        self._told: set[str] = set()  # variables of which the user has heard
        self._directory = directory or imports_dir()
        self._names: list[str] = []
        self._variables: set[str] = set()
        if notebook:
            self._read()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> LearnedImports:
        """Those of the notebook that a server names in the environment."""
        notebook = environ.get("JPY_SESSION_NAME", "")
        return cls(os.path.abspath(notebook) if notebook else "")

    @property
    def names(self) -> list[str]:
        """What to import; not what a file of the user's beside the notebook would stand for."""
        try:
            local = {name.partition(".")[0] for name in os.listdir()}
        except OSError:
            local = set()
        return [name for name in self._names if name.partition(".")[0] not in local]

    @property
    def warmup(self) -> str | None:
        """The code that does it; None for nothing."""
        return warmup_for(self.names) or None

    # ---------------------------------------------------------------- learning

    def learn(self, message: ImportsMessage) -> str:
        """Take in what a worker reports.

        Returns:
            What the user is to be told; empty for nothing.
        """
        unknown = set(message.variables) - self._variables
        names = list(dict.fromkeys(message.names))[:_MOST_NAMES]
        variables = self._variables | unknown
        if unknown and message.is_warm:
            names, variables = [], set()
            if news := sorted(unknown - self._told):
                self._notices.append(
                    f"A cell has changed {', '.join(news)}. Packages that were imported ahead "
                    "(--warmup auto) may not have seen that; restart the kernel if it is meant "
                    "for one: nothing is imported ahead next time"
                )
            self._told |= unknown
        if (names, variables) != (self._names, self._variables):
            self._names, self._variables = names, variables
            self._write()
        return "".join(f"{notice}\n" for notice in self.take_notices())

    def take_notices(self) -> list[str]:
        """What went wrong since this was asked last, a line each."""
        notices, self._notices = self._notices, []
        return notices

    # ------------------------------------------------------------------- files

    @property
    def path(self) -> str:
        """The notebook's file."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{sys.executable}\0{self.notebook}".encode("utf-8", "surrogateescape"))
        return os.path.join(self._directory, f"{digest.hexdigest()}.json")

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError("it is too long")
            values = json.loads(data)
            self._names = _words(values, "names")[:_MOST_NAMES]
            self._variables = set(_words(values, "variables"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self._names, self._variables = [], set()
            self._notices.append(
                f"what --warmup auto had learned of this notebook cannot be read and is not in "
                f"force: {self.path}: {error}"
            )
            return
        with suppress(OSError):
            os.utime(self.path)  # it is in use

    def _write(self) -> None:
        if not self.notebook:
            return
        values = {
            "notebook": self.notebook,
            "python": sys.executable,
            "names": self._names,
            "variables": sorted(self._variables),
        }
        path = self.path
        temporary = f"{path}.{os.getpid()}"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            is_new = not os.path.exists(path)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(values, file)
            os.replace(temporary, path)
            if is_new:
                self._thin_out()
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            if not self._has_told:
                self._has_told = True
                self._notices.append(
                    f"what --warmup auto has learned of this notebook cannot be remembered: {error}"
                )

    def _thin_out(self) -> None:
        """Remove the files of notebooks that were not opened for longest."""
        found = []
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime, entry.path))
        for _, path in sorted(found)[: max(0, len(found) - _MOST_FILES)]:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _words(values: Any, name: str) -> list[str]:
    words = values.get(name) if isinstance(values, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{name} is no list of texts")
    return words
