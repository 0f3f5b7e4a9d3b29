"""The two kernels of a module's scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .kernels import Pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """ipykernel and this kernel."""
    pair = Pair(tmp_path_factory.mktemp("parity"))
    yield pair
    pair.close()
