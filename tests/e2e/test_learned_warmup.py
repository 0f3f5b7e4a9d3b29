"""``--warmup auto``: a restart is warm with nothing configured, and as empty as any other."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from pyrepl_kernel.cli import main

from .managed import Managed, managed
from .support import TIMEOUT, Client, kernelspec, only_ours

pytestmark = [
    only_ours,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
]

LOADED = "sorted({'pandas', 'yaml', 'mine'} & set(__import__('sys').modules))"
OWN_NAMES = (
    "[n for n in globals() if not n.startswith('_') and n not in get_ipython().user_ns_hidden]"
)


def specs(path: Path, provisioner: bool) -> KernelSpecManager:
    """A kernelspec with a learned warmup, with our provisioner or with jupyter_client's."""
    spec = kernelspec()
    values = json.loads(spec.to_json())
    values["argv"] = [sys.executable, *spec.argv[1:], "--warmup=auto"]
    if not provisioner:
        del values["metadata"]["kernel_provisioner"]
    folder = path / "kernels" / "auto"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(values), encoding="utf-8")
    return KernelSpecManager(kernel_dirs=[str(path / "kernels")], ensure_native_kernel=False)


class Notebook:
    """A notebook's kernel under a manager."""

    def __init__(self, kernel: Managed, path: Path, **env: str) -> None:
        self.path = path
        self._kernel = kernel
        self._env = os.environ | {"JPY_SESSION_NAME": str(path / "analysis.ipynb")} | env
        kernel.call("start_kernel", cwd=str(path), env=self._env)
        self.client: Client = kernel.client()

    def restart(self) -> None:
        """As a front end does it."""
        self._kernel.call("restart_kernel", cwd=str(self.path), env=self._env)
        self.client = self._kernel.client()

    def restart_until_loaded(self, wanted: list[str]) -> None:
        """Restart again and again, until the worker has these modules."""
        deadline = time.monotonic() + TIMEOUT
        self.restart()
        while self.loaded() != wanted:
            assert time.monotonic() < deadline, f"{self.loaded()} stayed, and not {wanted}"
            time.sleep(0.5)
            self.restart()

    def next_notice(self) -> str:
        """What is shown on stderr with one of the next cells."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for message in self.client.run("pass").messages:
                if message["msg_type"] == "stream" and message["content"]["name"] == "stderr":
                    return str(message["content"]["text"])
        raise TimeoutError("no notice came")

    def run(self, code: str) -> str:
        """Run a cell that must succeed; what it printed."""
        outcome = self.client.run(code)
        assert outcome.status == "ok", outcome.reply["content"]
        return outcome.text

    def loaded(self) -> list[str]:
        """Which of three modules the worker has."""
        return json.loads(self.client.value(LOADED).replace("'", '"'))  # type: ignore[no-any-return]

    def wait_template(self, word: str) -> None:
        """Wait until there is a warm template that has loaded a library."""
        runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"], "pyrepl")
        deadline = time.monotonic() + TIMEOUT
        while True:
            for state in [json.loads(p.read_text()) for p in runtime.glob("*.json")]:
                loaded = Path(f"/proc/{state['pid']}/maps")
                if loaded.exists() and word in loaded.read_text():
                    return
            assert time.monotonic() < deadline, f"no template has imported {word}"
            time.sleep(0.05)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Templates and memories of the test's own."""
    for name in ("data", "runtime"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"JUPYTER_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("PYREPL_TEMPLATE_LINGER", "2")
    yield
    assert main(["templates", "stop"]) == 0


@pytest.fixture(params=[True, False], ids=["provisioner", "no provisioner"])
def notebook(request: Any, tmp_path: Path, runtime: None) -> Iterator[Notebook]:
    """A notebook that has a module of its own beside it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.py").write_text("import yaml\nVALUE = 1\n", encoding="utf-8")
    manager = specs(tmp_path, request.param)
    traits = {"kernel_name": "auto", "kernel_spec_manager": manager}
    with managed(KernelManager, start=False, **traits) as kernel:
        yield Notebook(kernel, home)


def test_a_restart_is_warm_empty_and_has_the_edited_module(notebook: Notebook) -> None:
    assert notebook.loaded() == []
    notebook.run("import pandas, mine\nassert mine.VALUE == 1")
    notebook.wait_template("pandas")
    for value in range(2, 5):  # the list goes on from one restart to the next
        (notebook.path / "mine.py").write_text(f"import yaml\nVALUE = {value}\n", encoding="utf-8")
        os.utime(notebook.path / "mine.py", (0, value))
        notebook.restart()
        assert notebook.client.value(OWN_NAMES) == "[]"
        assert notebook.loaded() == ["pandas", "yaml"]
        assert notebook.run("import pandas, mine\nprint(mine.VALUE)") == f"{value}\n"


def test_a_changed_environment_before_an_import_is_honoured(notebook: Notebook) -> None:
    code = "import os, yaml\nos.environ['LEARNED_E2E'] = '1'\nimport pandas"
    notebook.run(code)
    notebook.wait_template("yaml")
    for _ in range(3):
        notebook.restart()
        assert notebook.loaded() == ["yaml"]
        assert "LEARNED_E2E" not in notebook.run(code)


def test_a_change_that_comes_up_later_makes_the_next_restart_cold(notebook: Notebook) -> None:
    notebook.run("import pandas, yaml")
    notebook.wait_template("pandas")
    notebook.restart()
    assert notebook.loaded() == ["pandas", "yaml"]
    notebook.run("import yaml, os\nos.environ['LEARNED_E2E'] = '1'\nimport pandas")
    assert "has changed LEARNED_E2E" in notebook.next_notice()
    notebook.restart()
    assert notebook.loaded() == []
    notebook.run("import yaml, os\nos.environ['LEARNED_E2E'] = '1'\nimport pandas")
    notebook.restart_until_loaded(["yaml"])  # until then a restart may find the older spare
