"""What these tests run in: Jupyter directories of their own, so that no user's settings count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="package", autouse=True)
def jupyter_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point Jupyter at empty directories."""
    base = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "DATA", "RUNTIME"):
            (base / name).mkdir(mode=0o700)
            patch.setenv(f"JUPYTER_{name}_DIR", str(base / name))
        for variable in ("JPY_PARENT_PID", "JUPYTER_PATH"):
            patch.delenv(variable, raising=False)
        yield base
