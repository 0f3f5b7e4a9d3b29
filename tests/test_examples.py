"""The examples that users copy from: they run, and do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.usefixtures("no_process_left")


def run(name: str, *arguments: str | Path, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="checkpoints are forks, and need Linux")
def test_a_notebook_on_a_warm_pandas_with_ways_back(tmp_path: Path) -> None:
    warmup = "import pandas, matplotlib.pyplot"
    done = tmp_path / "done.ipynb"
    run("run_notebook.py", EXAMPLES / "power.ipynb", "--output", done, PYREPL_WARMUP=warmup)
    outputs = {cell.id: cell.get("outputs", []) for cell in nbformat.read(done, as_version=4).cells}
    said = {
        cell: "".join(output.text for output in shown if output.output_type == "stream")
        for cell, shown in outputs.items()
    }
    assert said["warm"] == "pandas is imported already\n"
    assert said["clean-badly"].startswith("50% of all readings are gone")
    assert said["rollback"].startswith("Back to checkpoint 'raw'")
    assert said["clean"].startswith("0% are gone")
    assert "KeyError" in [output.get("ename") for output in outputs["transaction"]]
    assert said["after-transaction"] == "as before: site, hour, temperature, power\n"
    for plot in ("plot-raw", "plot-model"):
        assert "image/png" in outputs[plot][0].data
    # Nothing is said on stderr: no warning of a library that the notebook should mind.
    streams = [output for shown in outputs.values() for output in shown if "name" in output]
    assert {output.name for output in streams} == {"stdout"}


def test_a_batch_of_twenty_notebooks_which_resumes(tmp_path: Path) -> None:
    assert "20 notebooks in" in run("batch.py", "--output", tmp_path)
    assert len(list(tmp_path.glob("population-growth=*.ipynb"))) == 20
    assert (tmp_path / "report.html").read_text().count('class="cell"') >= 60
    assert "20 of them done before" in run("batch.py", "--output", tmp_path)


def test_a_sweep_on_dask() -> None:
    lines = run("sweep_dask.py").splitlines()
    found = {m[1]: int(m[2]) for line in lines if (m := re.match(r"growth (\S+) +(\d+) val", line))}
    # The map's well-known ways: a fixed point, cycles of 2, 4, 8 and 3, and chaos.
    chaos = found.pop("3.9")
    assert found == {"2.8": 1, "3.2": 2, "3.5": 4, "3.55": 8, "3.83": 3}
    assert chaos > 50


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The web service; yields its address."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "web.py", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        pytest.fail(said)
    yield found[1]
    process.terminate()
    process.communicate(timeout=30)


def events(service: str, code: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{service}/run", content=code, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def no_process_left(service: str) -> None:
    """The service and its pool live as long as this module's tests."""


class TestWeb:
    def test_what_code_does_comes_as_events(self, service: str) -> None:
        begin, *others, end = events(service, "print('hello'); math.sqrt(16)")
        assert begin["type"] == "begin"
        assert others == [
            {"type": "stdout", "text": "hello\n"},
            {"type": "result", "data": {"text/plain": "4.0"}},
        ]
        assert end == {"type": "end", "status": "ok"}

    def test_no_client_sees_anothers_names(self, service: str) -> None:
        events(service, "secret = 1")
        _, error, end = events(service, "secret")
        assert error["type"] == "error"
        assert error["name"] == "NameError"
        assert end["status"] == "error"

    def test_output_comes_while_the_code_runs(self, service: str) -> None:
        code = "print('now', flush=True)\nimport time; time.sleep(60)"
        with httpx.stream("POST", f"{service}/run", content=code, timeout=60) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines))["type"] == "begin"
            assert json.loads(next(lines)) == {"type": "stdout", "text": "now\n"}
            assert json.loads(next(lines)) == {"type": "end", "status": "stopped: ran over 5 s"}

    def test_a_flood_is_stopped(self, service: str) -> None:
        *_, end = events(service, "while True: print('x' * 1000)")
        assert end["status"].startswith("stopped: output over")

    def test_a_crash_is_told(self, service: str) -> None:
        *_, end = events(service, "import os; os._exit(3)")
        assert end["status"] == "the worker exited with code 3"

    def test_too_much_code_is_refused(self, service: str) -> None:
        answer = httpx.post(f"{service}/run", content="#" * 70_000, timeout=60)
        assert answer.status_code == 413

    def test_a_client_that_goes_frees_its_session(self, service: str) -> None:
        code = "print('now', flush=True)\nimport time; time.sleep(60)"
        for _ in range(6):  # more than there may be sessions
            with httpx.stream("POST", f"{service}/run", content=code, timeout=60) as answer:
                next(answer.iter_lines())
        assert events(service, "1")[-1]["status"] == "ok"
