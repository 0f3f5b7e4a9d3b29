"""The gate: what it lets through, and the modules that neither process may load."""

from __future__ import annotations

import pytest

from benchmarks.counting import bytes_for, modules_of_kernel_process, modules_of_worker
from benchmarks.gate import grown

_NOT_IN_KERNEL_PROCESS = (
    "IPython",
    "ipykernel",
    "jupyter_client",
    "jupyter_core",
    "psutil",
    "sqlite3",
    "ssl",
    "tornado",
    "traitlets",
    "uuid",
    "yaml",
)
_NOT_IN_WORKER = (
    "asyncio",
    "concurrent",
    "ctypes",
    "debugpy",
    "ipykernel.kernelbase",
    "jedi",
    "jupyter_client",
    "matplotlib",
    "numpy",
    "pexpect",
    "prompt_toolkit",
    "sqlite3",
    "ssl",
    "tornado",
    "uuid",
    "zmq",
)


def loaded(names: tuple[str, ...], modules: list[str]) -> list[str]:
    """Those of the modules that are named or lie in a package that is."""
    return [m for m in modules if any(m == name or m.startswith(f"{name}.") for name in names)]


def test_the_kernel_process_loads_little() -> None:
    modules = modules_of_kernel_process()
    assert "pyrepl_kernel.kernel.kernel" in modules
    assert loaded(_NOT_IN_KERNEL_PROCESS, modules) == []
    assert len(modules) < 260, "more modules than the start can afford"


def test_the_worker_loads_little() -> None:
    modules = modules_of_worker()
    assert "IPython.core.interactiveshell" in modules
    assert loaded(_NOT_IN_WORKER, modules) == []
    assert len(modules) < 330, "more modules than the start can afford"


def test_bytes_are_counted() -> None:
    counts = bytes_for()
    assert 100 < counts["bytes, pass"] < counts["bytes, print(1)"] < counts["bytes, 1,000 lines"]


def test_what_grew_is_named_with_how_much() -> None:
    bounds = {"bytes, pass": 100, "modules, worker": 200, "instructions, pass, worker": 1000}
    counts = {
        "bytes, pass": 103,
        "modules, worker": 211,
        "instructions, pass, worker": 1050,
        "bytes, of something without a bound": 5,
    }
    [line] = grown(counts, bounds)
    assert line == "bytes, pass: 103 is +3.0% over the bound of 100 (allowed: +2%)"
    assert grown({**counts, "bytes, pass": 102}, bounds) == []


def test_a_count_of_no_known_kind_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        grown({"nonsense, pass": 1.0}, {"nonsense, pass": 1.0})
