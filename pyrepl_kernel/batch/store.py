"""What a batch leaves on disk: notebooks that are saved while they run, and a manifest.

Files are replaced, never rewritten in place: a run that is killed at any moment leaves each of them
as it was at some moment before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyrepl_kernel.batch.plan import Job
from pyrepl_kernel.batch.results import NotebookResult

__all__ = ["Manifest", "Saver", "serialise", "write_atomically"]

_SAVE_EVERY = 1.0  # seconds
_SAVE_SHARE = 20  # and a large notebook at most one twentieth of the time


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, or leave it as it is."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}-")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            # As any program that creates a file would; mkstemp is for secrets.
            os.fchmod(descriptor, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def serialise(notebook: Any) -> bytes:
    """A notebook as the bytes of its file."""
    from nbformat.v4.nbjson import JSONWriter

    text: str = JSONWriter().writes(notebook)
    return (text + "\n").encode()


class Saver:
    """Keeps the file of a notebook up to date while the notebook runs.

    Args:
        notebook: The notebook, which changes as it runs.
        path: Its file; None for none.
    """

    def __init__(self, notebook: Any, path: Path | None) -> None:
        self._notebook = notebook
        self._path = path
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _SAVE_EVERY
        self.error: OSError | None = None

    def changed(self) -> None:
        """The notebook has changed: it is saved soon."""
        if self._timer is None and self._path is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pause, self._save_in_time)

    def _save_in_time(self) -> None:
        self._timer = None
        began = time.perf_counter()
        try:
            self.save()
        except OSError as error:
            self.error = error  # such as a full disk; `close` tries again, and says so
        self._pause = max(_SAVE_EVERY, _SAVE_SHARE * (time.perf_counter() - began))

    def save(self) -> bytes:
        """Save it now; what was written.

        Raises:
            OSError: It cannot be written.
        """
        content = serialise(self._notebook)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, content)
        return content

    def close(self) -> bytes:
        """Save it for the last time.

        Raises:
            OSError: It cannot be written.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self.save()


class Manifest:
    """What has been done, a line for each notebook, in the folder of the outputs.

    A line is added when a notebook's output is complete on disk. A line that a killed run left
    unfinished counts as none.

    Args:
        folder: The folder of the outputs.
    """

    NAME = ".pyrepl-batch.jsonl"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / self.NAME

    def forget(self, jobs: Iterable[Job]) -> None:
        """Drop what is known of these outputs, since they are about to be made anew."""
        anew = {self._place(job.output) for job in jobs}
        kept = [line for line in self._lines() if line["output"] not in anew]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self._path, text.encode())

    def add(self, job: Job, result: NotebookResult, content: bytes) -> None:
        """Note that a job is done.

        Args:
            job: The job.
            result: What became of it.
            content: Its output, as it is on disk.
        """
        line = {
            "key": job.key,
            "output": self._place(job.output),
            "digest": hashlib.sha256(content).hexdigest(),
            "result": result.to_json(),
        }
        # One write to a descriptor that appends: whole or not at all, as far as a kill goes.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, b"\n" + json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)

    def done(self, jobs: Iterable[Job]) -> dict[str, NotebookResult]:
        """The jobs that an earlier run has done well and whose outputs are as it left them.

        Returns:
            Their results, by key and output (see `slot`).
        """
        known = {(line["key"], line["output"]): line for line in self._lines()}
        found = {}
        for job in jobs:
            line = known.get((job.key, self._place(job.output)))
            if line is None or line["result"]["status"] != "ok":
                continue
            try:
                digest = hashlib.sha256(job.output.read_bytes()).hexdigest()
            except OSError:
                continue  # deleted, or not ours to read: it is made again
            if digest == line["digest"]:
                found[slot(job)] = NotebookResult.from_json(line["result"]).found_done()
        return found

    def _place(self, output: Path) -> str:
        return os.path.relpath(output, self._folder)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict) and _COLUMNS <= line.keys()]


_COLUMNS = {"key", "output", "digest", "result"}


def slot(job: Job) -> str:
    """What tells a job from all others of a batch: its output."""
    return str(job.output)
