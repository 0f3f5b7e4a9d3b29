"""Which imports are learned, and what a warmup makes of them."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Each case runs in a process of its own: what is imported stays so.
_PRELUDE = """
import json, os, sys
from pyrepl_kernel.kernel.learned import warmup_for
from pyrepl_kernel.worker.learned import ImportLog, import_all
told = []
messages = []
def tell(message):
    messages.append(message)
    told.append(message.names)
log = ImportLog(tell)

def cell(code, name="<module>"):
    log.begin()
    exec(compile(code, "cell.py", "exec"), {"__name__": "__main__"})
    log.end()
"""


def run(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(code)],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "LEARNED_TEST"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_packages_are_learned(tmp_path: Path) -> None:
    shown = run(
        """
        cell("import yaml")
        cell("x = 1")
        cell("import tqdm.auto")
        first, second = told
        print("yaml" in first, "tqdm.auto" in second, second[:len(first)] == first)
        """,
        tmp_path,
    )
    assert shown.split() == ["True", "True", "True"]


def test_the_users_own_modules_and_the_standard_librarys_are_not(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import yaml\n", encoding="utf-8")
    shown = run(
        """
        sys.path.insert(0, "")
        cell("import mine, wave")
        print("mine" in told[-1], "wave" in told[-1], "yaml" in told[-1])
        """,
        tmp_path,
    )
    assert shown.split() == ["False", "False", "True"]


def test_imports_between_cells_are_not(tmp_path: Path) -> None:
    shown = run("import yaml\ncell('import tqdm')\nprint('yaml' in told[-1])", tmp_path)
    assert shown.split() == ["False"]


@pytest.mark.parametrize(
    "change",
    [
        "os.environ['LEARNED_TEST'] = '1'",
        "os.environ.update(LEARNED_TEST='1')",
        "os.environ.setdefault('LEARNED_TEST', '1')",
        "import settings",
        "os.environ.pop('PATH')",
    ],
)
def test_nothing_is_learned_after_the_environment_was_changed(change: str, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(
        "import os; os.environ['LEARNED_TEST'] = '1'\n", encoding="utf-8"
    )
    shown = run(
        f"""
        sys.path.insert(0, "")
        cell({f"import os, yaml; {change}; import tqdm"!r})
        cell("import rich")
        print("yaml" in told[-1], "tqdm" in told[-1], "rich" in told[-1])
        """,
        tmp_path,
    )
    assert shown.split() == ["True", "False", "False"]


def test_a_librarys_own_change_while_it_is_imported_does_not_matter(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "setter.py"
    package.parent.mkdir()
    package.write_text(
        "import os\ndef f(value):\n    os.environ['LEARNED_TEST'] = value\nf('1')\n",
        encoding="utf-8",
    )
    shown = run(
        f"""
        folder = {str(package.parent)!r}
        sys.path.append(folder)
        log._installed += (folder + "/",)
        log._libraries += (folder + "/",)
        cell("import setter; import yaml")
        print("setter" in told[-1], "yaml" in told[-1])
        cell("import setter; setter.f('2'); import tqdm")
        print("tqdm" in told[-1])
        """,
        tmp_path,
    )
    assert shown.split() == ["True", "True", "False"]


def test_the_environment_stays_what_it_was(tmp_path: Path) -> None:
    shown = run(
        """
        os.environ["LEARNED_TEST"] = "1"
        del os.environ["LEARNED_TEST"]
        os.environ["LEARNED_TEST"] = "2"
        print(type(os.environ).__qualname__, isinstance(os.environ, os._Environ))
        os.system("echo $LEARNED_TEST")
        """,
        tmp_path,
    )
    assert sorted(shown.split()) == ["2", "True", "_Environ"]


def test_a_warmup_imports_and_leaves_no_name(tmp_path: Path) -> None:
    shown = run(
        """
        names = {}
        exec(warmup_for(["no_such_package", "tqdm.auto"]), names)
        print(sorted(name for name in names if name != "__builtins__"), "tqdm.auto" in sys.modules)
        """,
        tmp_path,
    )
    assert shown.split() == ["[]", "True"]


def test_what_a_warmup_has_imported_stays_in_the_list(tmp_path: Path) -> None:
    shown = run(
        """
        import_all(["no_such_package", "yaml"])
        log = ImportLog(tell)
        cell("x = 1")
        print(len(told))
        cell("import tqdm")
        print(told[-1][0], "tqdm" in told[-1], "no_such_package" in told[-1], messages[-1].is_warm)
        """,
        tmp_path,
    )
    assert shown.split() == ["0", "yaml", "True", "False", "True"]


@pytest.mark.parametrize("place", ["beside", "PYTHONPATH"])
def test_a_warmup_imports_nothing_of_the_users(place: str, tmp_path: Path) -> None:
    """Not when it has the name of a package that was there, nor when a package needs it."""
    site = tmp_path / "site-packages"
    (site / "needy").mkdir(parents=True)
    (site / "needy" / "part.py").write_text("", encoding="utf-8")
    (site / "needy" / "__init__.py").write_text(
        "import needy.part\ntry:\n    import mine\nexcept ImportError:\n    pass\n",
        encoding="utf-8",
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text("", encoding="utf-8")
    own = "" if place == "beside" else str(tmp_path / "own")
    shown = run(
        f"""
        import pyrepl_kernel.worker.learned as learned
        os.chdir({str(tmp_path / "own")!r})
        sys.path[:0] = [{own!r}, {str(site)!r}]
        found = learned.library_folders()
        learned.library_folders = lambda: found + ({str(site) + "/"!r},)
        import_all(["mine", "needy", "yaml"])
        print({{"mine", "needy", "needy.part", "yaml"}} & set(sys.modules))
        import mine
        """,
        tmp_path,
    )
    assert shown.strip() == "{'yaml'}"


def test_the_variables_that_cells_change_are_told(tmp_path: Path) -> None:
    shown = run(
        """
        os.environ["BETWEEN"] = "1"
        cell("import os; os.environ['BETWEEN'] = '1'")  # no change
        print(len(messages))
        cell("import os; os.environ['LEARNED_TEST'] = '1'; del os.environ['BETWEEN']")
        print(messages[-1].variables, messages[-1].is_warm)
        """,
        tmp_path,
    )
    assert shown.splitlines() == ["0", "['BETWEEN', 'LEARNED_TEST'] False"]
