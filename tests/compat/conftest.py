"""A kernel for the tests of a module, in Jupyter directories of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import Client, running_kernel


@pytest.fixture(scope="package", autouse=True)
def jupyter_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No settings of the user's, and nothing left in his directories."""
    base = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
        }.items():
            (base / name).mkdir(mode=0o700)
            patch.setenv(variable, str(base / name))
        yield base


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A front end of a kernel that the other tests of the module use too."""
    with running_kernel() as kernel:
        yield kernel.client()
