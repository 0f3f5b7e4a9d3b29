"""Libraries in a warmup: how workers are made then, and whether the library works in them.

``PYREPL_LIBRARY_RUNS=50`` has that many workers use each; without it they are few enough for each
run of the tests.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyrepl_kernel import SessionConfig, SessionPool

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux",
        reason="workers are forked on Linux alone; elsewhere all are spawned",
    ),
    pytest.mark.timeout(900),
]

RUNS = int(os.environ.get("PYREPL_LIBRARY_RUNS", "2"))
BOUND = 60.0
"""Seconds that anything may take on a busy machine."""


@dataclass(frozen=True)
class Case:
    """A warmup with a library.

    Attributes:
        needs: The library.
        warmup: Uses it.
        code: What every worker does with it afterwards; leaves its ``result``.
        result: What that has to be.
        method: How workers are to be made.
        line: The line to move, if they cannot be forked.
        env: Variables of the user's.
    """

    needs: str
    warmup: str
    code: str
    result: object
    method: str = "fork"
    line: int = 0
    reason: str = ""
    env: tuple[tuple[str, str], ...] = ()


NUMPY = """
square = numpy.random.rand(400, 400)
numpy.linalg.svd(square[:60, :60])
result = bool(abs((square @ numpy.linalg.inv(square)).trace() - 400) < 1e-3)
"""
PANDAS = """
frame = pandas.DataFrame({"key": list("abca") * 500, "value": range(2000)})
total = frame.groupby("key").value.sum()
result = [int(total["b"]), len(frame.merge(frame.head(3), on="key")), "<table" in frame.to_html()]
"""
ARROW = """
table = pyarrow.table({"key": [1, 2] * 50000, "value": list(range(100000))})
pyarrow.csv.write_csv(table, "/dev/null")
grouped = table.group_by("key").aggregate([("value", "sum")])
result = sorted(grouped.column("value_sum").to_pylist())
"""
SCIPY = """
noise = numpy.random.rand(200, 200)
scipy.linalg.svd(noise)
scipy.fft.fft2(noise, workers=2)
tree = scipy.spatial.cKDTree(noise)
tree.query(noise, workers=2)
result = float(round(scipy.optimize.minimize_scalar(lambda x: (x - 2) ** 2).x, 3))
"""
KMEANS = """
points = numpy.concatenate([numpy.random.rand(3000, 2), numpy.random.rand(3000, 2) + 10])
result = sorted(numpy.bincount(sklearn.cluster.KMeans(2, n_init=2).fit(points).labels_).tolist())
"""
BOOSTING = """
points = numpy.random.rand(3000, 4)
kind = points[:, 0] > 0.5
model = sklearn.ensemble.HistGradientBoostingClassifier(max_iter=5).fit(points, kind)
result = bool(model.score(points, kind) > 0.9)
"""
FOREST = """
points = numpy.random.rand(500, 4)
kind = points[:, 0] > 0.5
model = sklearn.ensemble.RandomForestClassifier(8, n_jobs=2).fit(points, kind)
result = bool(model.score(points, kind) > 0.9)
"""
POLARS = """
frame = polars.DataFrame({"key": [1, 2] * 5000, "value": range(10000)})
result = frame.group_by("key").agg(polars.col("value").sum()).sort("key")["value"].to_list()
"""
POLARS_RESULT = [24995000, 25000000]
DUCKDB = """
with duckdb.connect() as connection:
    result = connection.execute("select sum(range)::bigint from range(100000)").fetchone()[0]
"""
NUMBA = """
@numba.njit
def add(a, b):
    return a + b

result = add(40, 2)
"""
NUMBA_PARALLEL = """
@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for i in numba.prange(len(values)):
        found += values[i]
    return found

result = total(numpy.ones(100000))
"""
MATPLOTLIB = """
import io
figure, axes = matplotlib.pyplot.subplots()
axes.plot([1, 2, 3])
axes.set_title("title")
file = io.BytesIO()
figure.savefig(file, format="png")
matplotlib.pyplot.close(figure)
result = file.getvalue()[1:4].decode()
"""
REQUESTS = """
import http.server, threading
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
thread = threading.Thread(target=server.handle_request)
thread.start()
with requests.Session() as web:
    result = web.head(f"http://127.0.0.1:{server.server_port}/").status_code
thread.join()
server.server_close()
"""
SQLALCHEMY = """
engine = sqlalchemy.create_engine("sqlite://")
with engine.connect() as connection:
    result = connection.execute(sqlalchemy.text("select 42")).scalar()
"""
POOL = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
result = pool.submit(lambda: 42).result()
"""
ASYNCIO = """
async def work():
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: 42)

result = asyncio.run(work())
"""
TORCH = """
square = torch.rand(400, 400)
(square @ square).sum()
layer = torch.nn.Linear(400, 400)
layer(square).sum().backward()
result = tuple(layer.weight.grad.shape)
"""
JAX = "result = float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((100, 100))))\n"


def used(imports: str, code: str) -> str:
    """A warmup that does what the workers will do."""
    return f"{imports}{code}"


SCIPY_IMPORTS = "import numpy, scipy.fft, scipy.linalg, scipy.optimize, scipy.spatial"
ARROW_IMPORTS = "import pyarrow, pyarrow.csv, pyarrow.compute, pyarrow.acero"

CASES = {
    "numpy imported": Case("numpy", "import numpy", NUMPY, True),
    "numpy used": Case("numpy", used("import numpy", NUMPY), NUMPY, True),
    "pandas imported": Case("pandas", "import pandas", PANDAS, [499500, 2000, True]),
    "pandas used": Case("pandas", used("import pandas", PANDAS), PANDAS, [499500, 2000, True]),
    "pyarrow imported": Case("pyarrow", ARROW_IMPORTS, ARROW, [2499950000, 2500000000]),
    "pyarrow used": Case("pyarrow", used(ARROW_IMPORTS, ARROW), ARROW, [2499950000, 2500000000]),
    "scipy imported": Case("scipy", SCIPY_IMPORTS, SCIPY, 2.0),
    "scipy used": Case("scipy", used(SCIPY_IMPORTS, SCIPY), SCIPY, 2.0),
    "scikit-learn imported": Case(
        "sklearn", "import numpy, sklearn.cluster, sklearn.ensemble", KMEANS, [3000, 3000]
    ),
    "scikit-learn KMeans": Case(
        "sklearn",
        used("import numpy, sklearn.cluster", KMEANS),
        KMEANS,
        [3000, 3000],
        "quiesce+fork",
    ),
    "scikit-learn HistGradientBoosting": Case(
        "sklearn",
        used("import numpy, sklearn.ensemble", BOOSTING),
        BOOSTING,
        True,
        "quiesce+fork",
    ),
    "scikit-learn RandomForest": Case(
        "sklearn", used("import numpy, sklearn.ensemble", FOREST), FOREST, True
    ),
    "polars imported": Case("polars", "import polars", POLARS, POLARS_RESULT),
    "polars group_by": Case(
        "polars", used("import polars", POLARS), POLARS, POLARS_RESULT, "spawn", 3, "polars"
    ),
    "duckdb imported": Case("duckdb", "import duckdb", DUCKDB, 4999950000),
    "duckdb used and closed": Case("duckdb", used("import duckdb", DUCKDB), DUCKDB, 4999950000),
    "duckdb connection open": Case(
        "duckdb",
        "import duckdb\nmine = duckdb.connect()\nmine.execute('select 1').fetchall()",
        DUCKDB,
        4999950000,
        "spawn",
        2,
        "duckdb connection is open",
    ),
    "numba imported": Case("numba", "import numba", NUMBA, 42),
    "numba serial": Case("numba", used("import numba", NUMBA), NUMBA, 42),
    "numba parallel": Case(
        "numba", used("import numba, numpy", NUMBA_PARALLEL), NUMBA_PARALLEL, 100000.0
    ),
    "numba parallel, layer omp": Case(
        "numba",
        used("import numba, numpy", NUMBA_PARALLEL),
        NUMBA_PARALLEL,
        100000.0,
        "spawn",
        9,
        "NUMBA_THREADING_LAYER",
        (("NUMBA_THREADING_LAYER", "omp"),),
    ),
    "matplotlib imported": Case("matplotlib", "import matplotlib.pyplot", MATPLOTLIB, "PNG"),
    "matplotlib used": Case(
        "matplotlib", used("import matplotlib.pyplot", MATPLOTLIB), MATPLOTLIB, "PNG"
    ),
    "requests imported": Case("requests", "import requests", REQUESTS, 200),
    "requests used": Case("requests", used("import requests", REQUESTS), REQUESTS, 200),
    "sqlalchemy imported": Case("sqlalchemy", "import sqlalchemy", SQLALCHEMY, 42),
    "sqlalchemy used and disposed of": Case(
        "sqlalchemy",
        used("import sqlalchemy", SQLALCHEMY) + "engine.dispose()",
        SQLALCHEMY,
        42,
    ),
    "sqlalchemy connection in the pool": Case(
        "sqlalchemy",
        used("import sqlalchemy", SQLALCHEMY),
        SQLALCHEMY,
        42,
        "spawn",
        3,
        "sqlite3 connection is open",
    ),
    "a live thread pool": Case("", POOL, POOL, 42, "spawn", 4, "thread pool is alive"),
    "asyncio.run": Case("", used("import asyncio", ASYNCIO), ASYNCIO, 42),
    "torch imported": Case("torch", "import torch", TORCH, (400, 400)),
    "torch used": Case("torch", used("import torch", TORCH), TORCH, (400, 400), "spawn", 2),
    "jax imported": Case("jax", "import jax", JAX, 1000000.0),
    "jax used": Case("jax", used("import jax\n", JAX), JAX, 1000000.0, "spawn", 2, "JAX"),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found = CASES[request.param]
    if found.needs and importlib.util.find_spec(found.needs) is None:
        package = {"sklearn": "scikit-learn"}.get(found.needs, found.needs)
        pytest.skip(f"{found.needs} is not installed: pip install {package} to run this")
    return found


async def test_the_library_works_in_the_workers_that_the_verdict_allows(
    case: Case, tmp_path: Path
) -> None:
    ends = tmp_path / "ends"
    goodbye = f"""
import atexit, os
atexit.register(lambda: open({str(ends)!r}, "a").write(f"{{os.getpid()}}\\n"))
"""
    config = SessionConfig(start_timeout=BOUND, shutdown_grace=BOUND)
    pids = []
    async with SessionPool(
        min_idle=1,
        max_sessions=1,
        warmup_code=case.warmup + goodbye,
        env=dict(case.env),
        session_config=config,
    ) as pool:
        for _ in range(RUNS):
            async with pool.session() as session:
                outcome = await session.run(f"{case.code}\nprint(repr(result))", BOUND)
                assert outcome.error is None, outcome.error
                assert outcome.stdout.splitlines()[-1] == repr(case.result)
                pids.append(session.pid)
                await session.shutdown()
                assert session._link is not None and session._link.process.exit is not None
                ended = session._link.process.exit
                assert (ended.code, ended.signal) == (0, None)
        stats = pool.stats()
    verdict = f"{stats.start_reason} ({stats.start_advice})"
    assert stats.start_method == case.method, verdict
    assert case.reason in verdict
    assert not case.line or f"move line {case.line} " in verdict
    # Exit handlers run once in each worker; not in the template, and not in the trial fork.
    assert [int(pid) for pid in ends.read_text().split()] == pids
