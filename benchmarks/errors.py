"""What can go wrong in a benchmark.

::

    BenchmarkError
    ├── KernelNotInstalled   a kernel was named that Jupyter does not know
    └── KernelFault          a kernel did not do what a scenario asked of it
"""

from collections.abc import Iterable

_HOW_TO_INSTALL = {
    "python3": "pip install ipykernel",
    "pyrepl": "pip install pyrepl-kernel (in a checkout: pip install .)",
    "xpython": "pip install xeus-python",
    "async": "pip install async-kernel",
    "py": "pip install ipymini",
}


class BenchmarkError(Exception):
    """The base of everything that the benchmarks raise themselves."""


class KernelNotInstalled(BenchmarkError):
    """A kernel was named that Jupyter does not know.

    Args:
        name: the kernelspec that was asked for.
        installed: the kernelspecs that there are.
    """

    def __init__(self, name: str, installed: Iterable[str]) -> None:
        known = " ".join(sorted(installed))
        install = _HOW_TO_INSTALL.get(name, "jupyter kernelspec install FOLDER")
        super().__init__(
            f"kernel {name!r} is not installed.\n"
            f"  to install it:            {install}\n"
            f"  to measure what there is: --kernels {known or '(none is installed yet)'}"
        )


class KernelFault(BenchmarkError):
    """A kernel did not do what a scenario asked: no answer in time, a wrong one, or it died."""
