"""What people are told when their worker has died: in words, for a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.session.stacks import Frame

__all__ = ["Aftermath", "full_report", "summary"]

_RED, _BOLD, _CYAN, _PLAIN = "\x1b[1;31m", "\x1b[1m", "\x1b[36m", "\x1b[0m"
_MOST_FRAMES = 30
_MOST_WORDS = 20  # lines of the last words

_WHAT_HAPPENED = {
    DeathCause.EXIT: "The process that ran your code ended itself",
    DeathCause.CRASH: "The process that ran your code crashed",
    DeathCause.STACK_OVERFLOW: "The process that ran your code overflowed its stack",
    DeathCause.SIGNAL: "Something outside of this kernel ended the process that ran your code",
    DeathCause.OUT_OF_MEMORY: "The system ran out of memory and killed the process that ran your "
    "code",
    DeathCause.MEMORY_LIMIT: "The process that ran your code passed its memory limit",
    DeathCause.TIME_LIMIT: "The process that ran your code did not stop when its time was over",
    DeathCause.INTERRUPTS: "The process that ran your code did not stop when it was interrupted",
    DeathCause.ABANDONED: "The process that ran your code did not stop when it was told to",
    DeathCause.PROTOCOL: "The process that ran your code lost its connection to the kernel",
}

_ADVICE = {
    DeathCause.EXIT: "os._exit() ends a process at once, and some libraries call it when they "
    "fail; an exception says the same and keeps your variables.",
    DeathCause.CRASH: "Such a crash comes from compiled code (an extension, ctypes), or from what "
    "it was given: look at the last lines of the stack.",
    DeathCause.STACK_OVERFLOW: "A recursion went deeper than the stack of the process; a lower "
    "sys.setrecursionlimit() turns that into a RecursionError.",
    DeathCause.OUT_OF_MEMORY: "Work in smaller pieces, delete what is no longer needed, or set a "
    "memory limit below what this machine has (--memory-limit, or %limit memory 4G): it stops the "
    "cell and keeps your variables.",
    DeathCause.MEMORY_LIMIT: "Work in smaller pieces, delete what is no longer needed, or raise "
    "the limit (--memory-limit, or %limit memory 8G).",
    DeathCause.TIME_LIMIT: "Compiled code does not look at interrupts while it runs; raise the "
    "limit if the cell needs longer (--cell-timeout, or %limit time 600).",
}

_BY_SIGNAL = {
    9: "Nobody but root and you can send SIGKILL: a kill -9, a batch system at the end of its "
    "patience, or a container at its memory limit.",
}


@dataclass(frozen=True)
class Aftermath:
    """What became of the session.

    Attributes:
        ends_kernel: Whether the kernel ends too, as its client is a batch.
        aborted: How many cells waited, and were not run.
        has_warmup: Whether the next worker begins with what the warmup made.
        restored: What state is back, and from when; empty where all is lost.
        advice: What else can be brought back, and how.
    """

    ends_kernel: bool = False
    aborted: int = 0
    has_warmup: bool = False
    restored: str = ""
    advice: str = ""


def summary(death: WorkerDied) -> str:
    """What happened and where, in one line."""
    in_cells = [frame for frame in death.frames if frame.cell] or death.frames
    where = f" at {in_cells[-1]}" if in_cells else ""
    return f"the worker process {death.reason}{where}"


def full_report(death: WorkerDied, aftermath: Aftermath) -> list[str]:
    """All that is known, as the lines of a traceback."""
    lines = [f"{_RED}WorkerDied{_PLAIN}: {_WHAT_HAPPENED[death.cause]}: it {death.reason}."]
    lines += _stack(death)
    lines += _facts(death)
    lines += _words(death)
    lines += _consequences(death, aftermath)
    return "\n".join(lines).split("\n")


def _stack(death: WorkerDied) -> Iterator[str]:
    if not death.frames:
        return
    yield f"\n{_BOLD}Where it was{_PLAIN} (most recent call last):"
    outer = death.frames
    inner: tuple[Frame, ...] = ()
    if len(death.frames) > _MOST_FRAMES:
        outer, inner = death.frames[:5], death.frames[5 - _MOST_FRAMES :]
    for frame in outer:
        yield from _frame(frame)
    if inner:
        yield f"  ... {len(death.frames) - len(outer) - len(inner)} more ..."
    for frame in inner:
        yield from _frame(frame)


def _frame(frame: Frame) -> Iterator[str]:
    place = f"{_CYAN}{frame.cell}{_PLAIN}" if frame.cell else f'File "{frame.file}"'
    yield f"  {place}, line {frame.line}, in {frame.function}"
    source = frame.source or _line_of_file(frame)
    if source:
        yield f"    {source}"


def _line_of_file(frame: Frame) -> str:
    import linecache

    return linecache.getline(frame.file, frame.line).strip() if frame.line else ""


def _facts(death: WorkerDied) -> Iterator[str]:
    facts = []
    if death.peak_memory is not None:
        facts.append(f"Peak memory: {_size(death.peak_memory)}")
    if death.children:
        facts.append(f"Child processes that ended with it: {death.children}")
    if facts:
        yield ""
        yield from facts


def _size(count: int) -> str:
    if count < 1 << 30:
        return f"{count / (1 << 20):.0f} MiB"
    return f"{count / (1 << 30):.1f} GiB"


def _words(death: WorkerDied) -> Iterator[str]:
    words = death.stderr
    if death.stack and words.endswith(death.stack):
        words = words.removesuffix(death.stack)  # shown above, in the terms of cells
    lines = words.strip().splitlines()
    if lines:
        yield f"\n{_BOLD}Its last words on stderr{_PLAIN}:"
        yield from (f"  {line}" for line in lines[-_MOST_WORDS:])


def _consequences(death: WorkerDied, aftermath: Aftermath) -> Iterator[str]:
    lost = aftermath.restored or "All variables and imports are lost; files on disk are not."
    if aftermath.aborted:
        cells = "cell that waited was" if aftermath.aborted == 1 else "cells that waited were"
        lost += f" {aftermath.aborted} {cells} not run."
    yield f"\n{lost}"
    if aftermath.ends_kernel:
        yield (
            "The kernel ends now: this client takes no input, so that it is a batch, which must "
            "not go on with an empty namespace (--on-crash=respawn lets it)."
        )
    elif not aftermath.restored:
        warm = ", in which the warmup has run" if aftermath.has_warmup else ""
        yield f"The next cell runs in a new process{warm}: run again the cells that you need."
        if aftermath.advice:
            yield aftermath.advice
    advice = _ADVICE.get(death.cause) or _BY_SIGNAL.get(death.signal or 0)
    if advice:
        yield advice
