"""Runs scenarios on kernels in turn: A B C, B C A, C A B ..."""

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from jupyter_client.kernelspec import KernelSpecManager

from .clients import VARIANTS, Content, Kernel
from .errors import BenchmarkError, KernelNotInstalled
from .guards import uninterrupted
from .scenarios import Scenario

BARE = ("bare", "alone")
"""The kernelspecs of bare processes, which only few scenarios can be tried on."""

_SLOW = 10.0  # seconds of a rehearsal from which a kernel gets fewer rounds
_SLOW_RUNS = 3


@dataclass(frozen=True, slots=True)
class Entrant:
    """A kernel that takes part: the label differs from the kernelspec if that is named twice."""

    label: str
    spec: str


@dataclass(slots=True)
class Samples:
    """What one scenario measured on one kernel; ``failure`` says why there are no more."""

    values: list[float] = field(default_factory=list)
    failure: str | None = None


def installed_kernels() -> list[str]:
    """Names of the kernelspecs that Jupyter finds."""
    return sorted(KernelSpecManager().find_kernel_specs())


def entrants(specs: Sequence[str]) -> list[Entrant]:
    """Labels for the named kernels; a kernel may run against itself, to see the noise.

    Raises:
        KernelNotInstalled: Jupyter does not know one of them.
    """
    installed = installed_kernels()
    chosen: list[Entrant] = []
    for spec in specs:
        name, *variants = spec.split("+")
        if name not in installed or not VARIANTS.keys() >= set(variants):
            raise KernelNotInstalled(spec, installed)
        earlier = sum(entrant.spec == spec for entrant in chosen)
        chosen.append(Entrant(f"{spec}#{earlier + 1}" if earlier else spec, spec))
    return chosen


class Lab:
    """Owns every kernel that is started and the folder they work in; leaves none behind."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="kernel-benchmarks-", ignore_cleanup_errors=True
        )
        self._kernels: list[Kernel] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with uninterrupted():
            for kernel in list(self._kernels):
                with suppress(Exception):  # the others are still to be ended
                    self.close(kernel, now=True)
            self._folder.cleanup()

    def kernel(self, spec: str, env: Mapping[str, str] | None = None) -> Kernel:
        """A kernel that is not started yet."""
        kernel = Kernel(spec, Path(self._folder.name), env)
        self._kernels.append(kernel)
        return kernel

    def close(self, kernel: Kernel, *, now: bool = False) -> None:
        """Ends a kernel and forgets it."""
        kernel.close(now=now)
        self._kernels.remove(kernel)

    def identify(self, entrant: Entrant) -> Content:
        """Starts a kernel once, uncounted, and returns its kernel_info reply.

        Raises:
            BenchmarkError: it does not start or does not answer.
        """
        kernel = self.kernel(entrant.spec)
        try:
            kernel.start()
            info = kernel.info()
        except BaseException:
            self.close(kernel, now=True)
            raise
        self.close(kernel)
        return info

    def run(
        self,
        scenario: Scenario,
        participants: Sequence[Entrant],
        runs: int,
        results: dict[str, Samples],
        progress: Callable[[str], None],
    ) -> None:
        """Measures one scenario; a kernel that fails is out of it, the others go on.

        Args:
            scenario: what to measure.
            participants: the kernels, in the order of the first round.
            runs: how many rounds count; one more comes before them, as a rehearsal.
            results: filled while it runs, by label, so that Ctrl-C loses only what was open.
            progress: told about each round.
        """
        kept: dict[str, Kernel] = {}
        participants = [e for e in participants if e.spec not in BARE or scenario.is_for_bare]
        rounds = dict.fromkeys((entrant.label for entrant in participants), runs)
        for entrant in participants:
            results[entrant.label] = Samples()
        for number in range(runs + 1):
            progress(f"round {number} of {runs}" if number else "rehearsal")
            first = number % len(participants)
            for entrant in (*participants[first:], *participants[:first]):
                samples = results[entrant.label]
                if samples.failure is not None or number > rounds[entrant.label]:
                    continue
                began = time.perf_counter()
                try:
                    value = self._measure(scenario, entrant, kept, is_rehearsal=not number)
                except Exception as error:  # whatever it is, it is this kernel's result
                    samples.failure = _reason(error, number)
                    continue
                if number:
                    samples.values.append(value)
                elif time.perf_counter() - began > _SLOW:
                    rounds[entrant.label] = min(runs, _SLOW_RUNS)
        for kernel in kept.values():
            self.close(kernel)

    def _measure(
        self, scenario: Scenario, entrant: Entrant, kept: dict[str, Kernel], *, is_rehearsal: bool
    ) -> float:
        kernel = kept.pop(entrant.label, None) or self.kernel(entrant.spec, scenario.env)
        try:
            if scenario.keeps:
                if kernel.pid is None:
                    kernel.start()
                    kernel.subscribe()
                    kernel.cell(scenario.prepare)
                kernel.drain()
            if is_rehearsal and scenario.rehearse is not None:
                scenario.rehearse(kernel)
                value = 0.0
            else:
                value = _without_collector(scenario, kernel)
        except BaseException:
            # What such a kernel is still doing must not reach the next measurement.
            self.close(kernel, now=True)
            raise
        if scenario.keeps:
            kept[entrant.label] = kernel
        else:
            self.close(kernel)
        return value


def _without_collector(scenario: Scenario, kernel: Kernel) -> float:
    """Measures while our own garbage collector rests: its pauses would be the kernel's."""
    gc.collect()
    gc.disable()
    try:
        return scenario.measure(kernel)
    finally:
        gc.enable()


def _reason(error: Exception, number: int) -> str:
    text = str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}"
    return f"{f'round {number}' if number else 'rehearsal'}: {text}"
