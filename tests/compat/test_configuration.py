"""Command line, environment and IPython's configuration: the lines C and E."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrepl_kernel.session.execution import Outcome
from pyrepl_kernel.session.session import Session, SessionConfig
from tests.e2e.support import running_kernel

from .support import check

pytestmark = pytest.mark.asyncio


@pytest.fixture
def ipython_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An IPython directory of the test's own, with an empty default profile."""
    (tmp_path / "profile_default" / "startup").mkdir(parents=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("PYTHONSTARTUP", raising=False)
    return tmp_path


@pytest.fixture
def profile(ipython_dir: Path) -> Path:
    """The default profile."""
    return ipython_dir / "profile_default"


async def first_cell(code: str, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
    """What the first cell of a kernel with these arguments says."""
    config = SessionConfig(options={"ipython": list(arguments), "history": True})
    async with Session(config=config, env=env) as session:
        return await session.run(code)


async def value(code: str, *arguments: str) -> str:
    """The value of an expression in such a kernel, where nothing went wrong."""
    outcome = await first_cell(code, *arguments)
    assert outcome.error is None, outcome.error
    assert outcome.stderr == ""
    assert outcome.result is not None
    return str(outcome.result["text/plain"])


# ----------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "arguments, expression, expected",
    [
        (
            ["--HistoryManager.hist_file=:memory:"],
            "get_ipython().history_manager.hist_file",
            "':memory:'",
        ),
        (["--matplotlib=inline"], "import sys; 'matplotlib.pyplot' in sys.modules", "True"),
        (["--pylab=inline"], "arange(3).sum() == 3", "np.True_"),
        (["--ext=autoreload"], "get_ipython().extension_manager.loaded", "autoreload"),
        (["--cache-size=11"], "get_ipython().cache_size", "11"),
        (["--colors=NoColor"], "get_ipython().colors", "'nocolor'"),
        (["--InteractiveShell.cache_size=12"], "get_ipython().cache_size", "12"),
        (["--IPKernelApp.exec_lines=q = 4"], "q", "4"),
        (["--InteractiveShellApp.exec_lines=q = 5"], "q", "5"),
        (["--IPKernelApp.code_to_run=q = 6"], "q", "6"),
        (["-c", "q = 7"], "q", "7"),
        (["--trio-loop"], "get_ipython().loop_runner.__name__", "'_trio_runner'"),
    ],
    ids=lambda argument: argument[0] if isinstance(argument, list) else None,
)
async def test_an_argument_is_taken(
    ipython_dir: Path, arguments: list[str], expression: str, expected: str
) -> None:
    """C1: what launchers and kernelspecs add for every Python kernel, and IPython knows."""
    found = await value(expression, *arguments)
    assert expected in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["-Xfrozen_modules=off"],
        ["-X", "frozen_modules=off", "--quiet"],
        ["--quiet", "--debug", "--log-level=DEBUG"],
        ["--no-stdout", "--no-stderr", "--no-secure"],
        ["--IPKernelApp.kernel_class=ipykernel.ipkernel.IPythonKernel"],
        ["--IPKernelApp.parent_handle=1", "--ip=127.0.0.1", "--hb=1", "--transport=tcp"],
        ["--Session.username=me", "--ident=abc"],
        ["--unknown", "--unknown-too=3", "--Nobody.knows=this", "positional"],
        ["--", "rest"],
        [""],
    ],
    ids=str,
)
async def test_an_argument_is_ignored(ipython_dir: Path, arguments: list[str]) -> None:
    """C2: what means nothing here is never fatal, and not spoken of."""
    assert await value("1 + 1", *arguments) == "2"


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--matplotlib=rubbish", "rubbish"),
        ("--cache-size=many", "cache_size"),
        ("--cache-size", "expected one argument"),
        ("--log-level=loud", "log_level"),
        ("--InteractiveShell.colors=rubbish", "cannot be configured"),
        ("--profile=nowhere", "'nowhere' not found"),
        ("--ext=no_such_extension", "no_such_extension"),
        ("--IPKernelApp.exec_lines=1/0", "ZeroDivisionError"),
        ("--gui=rubbish", "gui"),
    ],
)
async def test_a_bad_value_is_spoken_of(ipython_dir: Path, argument: str, said: str) -> None:
    """C3: a warning on stderr with the first cell, and a kernel that works."""
    outcome = await first_cell("1 + 1", argument, "--IPKernelApp.exec_files=[]")
    assert outcome.result == {"text/plain": "2"}
    assert said in outcome.stderr


@pytest.mark.parametrize("arguments", [["--profile=other"], ["--profile", "other"]], ids=str)
async def test_a_profile(ipython_dir: Path, arguments: list[str]) -> None:
    """C4: `--profile`."""
    other = ipython_dir / "profile_other"
    other.mkdir()
    (other / "ipython_kernel_config.py").write_text("c.IPKernelApp.exec_lines = ['o = 1']")
    assert await value("o, get_ipython().profile", *arguments) == "(1, 'other')"


async def test_other_directories(ipython_dir: Path, tmp_path: Path) -> None:
    """C4: `--profile-dir` and `--ipython-dir`."""
    code = "get_ipython().profile_dir.location"
    (tmp_path / "mine").mkdir()
    found = await value(code, f"--profile-dir={tmp_path / 'mine'}")
    assert found == repr(str(tmp_path / "mine"))
    found = await value(code, f"--ipython-dir={tmp_path / 'new'}")
    assert found == repr(str(tmp_path / "new" / "profile_default"))


async def test_a_whole_kernel_with_arguments(ipython_dir: Path) -> None:
    """C1: through the kernel's own command line, before and after the connection file."""
    under = ["sh", "-c", 'exec "$@" --HistoryManager.hist_file=:memory: --ext autoreload', "sh"]
    with running_kernel(under) as kernel:
        client = kernel.client()
        check(client, "str(get_ipython().history_manager.hist_file) == ':memory:'")
        check(client, "'autoreload' in str(get_ipython().extension_manager.loaded)")
        check(client, "import sys; sys.argv[1] == '-f' and sys.argv[-1] == 'autoreload'")


# ------------------------------------------------------- profile and startup files


async def test_config_files(profile: Path) -> None:
    """E4: `ipython_config.py` and `ipython_kernel_config.py`; the latter wins."""
    (profile / "ipython_config.py").write_text(
        "c.InteractiveShellApp.exec_lines = ['x = 1']\n"
        "c.InteractiveShell.cache_size = 5\n"
        "c.HistoryManager.hist_file = ':memory:'\n"
    )
    (profile / "ipython_kernel_config.py").write_text(
        "c.IPKernelApp.extensions = ['autoreload']\nc.InteractiveShell.cache_size = 6\n"
        "c.IPKernelApp.matplotlib = 'inline'\nc.IPKernelApp.exec_files = ['more.py']"
    )
    (profile.parent / "more.py").write_text("y = 2")
    found = await value(
        "ip = get_ipython(); (x, y, ip.cache_size, str(ip.history_manager.hist_file),"
        " 'autoreload' in str(ip.extension_manager.loaded))"
    )
    assert found == "(1, 2, 6, ':memory:', True)"
    assert await value("import sys; 'matplotlib.pyplot' in sys.modules") == "True"


async def test_the_command_line_wins(profile: Path) -> None:
    """E4: over the config files."""
    (profile / "ipython_config.py").write_text("c.InteractiveShell.cache_size = 5")
    assert await value("get_ipython().cache_size", "--cache-size=9") == "9"


async def test_a_json_config_file(profile: Path) -> None:
    """E4: traitlets reads JSON too."""
    (profile / "ipython_config.json").write_text('{"InteractiveShell": {"cache_size": 7}}')
    assert await value("get_ipython().cache_size") == "7"


async def test_startup_files(profile: Path) -> None:
    """E5: in their order; what they define is not the user's own."""
    (profile / "startup" / "10-first.py").write_text("seen = ['py']; from math import pi")
    (profile / "startup" / "20-second.ipy").write_text("more = !echo ipy\nseen += more")
    (profile / "startup" / "README").write_text("not Python")
    assert await value("seen") == "['py', 'ipy']"
    assert await value("names = %who_ls\nnames") == "[]"


async def test_pythonstartup(ipython_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E5: PYTHONSTARTUP is run."""
    (ipython_dir / "start.py").write_text("started = 1")
    monkeypatch.setenv("PYTHONSTARTUP", str(ipython_dir / "start.py"))
    assert await value("started") == "1"


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("ipython_config.py", "1/0", "ZeroDivisionError"),
        ("ipython_kernel_config.py", "a syntax error", "SyntaxError"),
        ("ipython_config.py", "c.InteractiveShell.cache_size = 'x'", "cache_size"),
        ("ipython_config.py", "c.InteractiveShellApp.extensions = ['nowhere']", "nowhere"),
        ("ipython_config.json", "{", "ipython_config.json"),
        ("startup/00.py", "1/0", "ZeroDivisionError"),
        ("startup/00.py", "a syntax error", "SyntaxError"),
        ("startup/00.py", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
async def test_a_mistake_is_shown(profile: Path, name: str, text: str, said: str) -> None:
    """E6: an error in a config or startup file comes with the first cell, and stops nothing."""
    (profile / name).write_text(text)
    config = SessionConfig(options={"ipython": []})
    async with Session(config=config) as session:
        first, second = await session.run("1 + 1"), await session.run("2 + 2")
    assert first.result == {"text/plain": "2"}
    assert said in first.stderr
    assert second.stderr == ""


async def test_a_startup_file_that_exits(profile: Path) -> None:
    """E6: it does not take the kernel with it."""
    (profile / "startup" / "00.py").write_text("import sys; sys.exit(3)")
    outcome = await first_cell("1 + 1")
    assert outcome.result == {"text/plain": "2"}


async def test_a_session_of_a_program_has_no_configuration(profile: Path) -> None:
    """E7: only a kernel loads the user's configuration."""
    (profile / "ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['x = 1']")
    (profile / "startup" / "00.py").write_text("y = 2")
    async with Session() as session:
        outcome = await session.run("'x' in globals(), 'y' in globals()")
    assert outcome.result == {"text/plain": "(False, False)"}


async def test_without_configuration_nothing_is_loaded(ipython_dir: Path) -> None:
    """E7: what reads it is not even imported."""
    code = "import sys; 'pyrepl_kernel.worker.application' in sys.modules"
    assert await value(code) == "False"
    assert await value(code, "-Xfrozen_modules=off") == "False"


async def test_the_store_magic(ipython_dir: Path) -> None:
    """E7: `%store` is there, as IPython's applications load it."""
    assert (await first_cell("x = 3\n%store x")).stdout == "Stored 'x' (int)\n"
    assert (await first_cell("%store -r x\nprint(x)")).stdout == "3\n"


# ----------------------------------------------------------------- environment


async def test_the_name_of_the_session() -> None:
    """E1: JPY_SESSION_NAME becomes `__session__`."""
    outcome = await first_cell("print(__session__)", env={"JPY_SESSION_NAME": "a/b.ipynb"})
    assert outcome.stdout == "a/b.ipynb\n"


async def test_the_name_of_cells() -> None:
    """E1: IPYKERNEL_CELL_NAME names the file that a cell pretends to be."""
    code = "import sys; print(sys._getframe().f_code.co_filename)"
    outcome = await first_cell(code, env={"IPYKERNEL_CELL_NAME": "<cell>"})
    assert outcome.stdout == "<cell>\n"


@pytest.mark.parametrize("given, found", [("", "inline"), ("agg", "agg")])
async def test_the_backend_of_matplotlib(given: str, found: str) -> None:
    """E2: MPLBACKEND is matplotlib-inline's unless it is set."""
    outcome = await first_cell(
        "import os; print(os.environ['MPLBACKEND'])", env={"MPLBACKEND": given}
    )
    assert outcome.stdout.strip().endswith(found)


async def test_matplotlib_inline(ipython_dir: Path) -> None:
    """E3: it registers itself with the shell, and shows a figure at the end of the cell."""
    config = SessionConfig(options={"ipython": []})
    async with Session(config=config) as session:
        outcome = await session.run("import matplotlib.pyplot as plt; plt.plot([1, 2]);")
        assert any("image/png" in display.data for display in outcome.displays), outcome
        outcome = await session.run(
            "print([type(c).__name__ for c in get_ipython().configurables])"
        )
        assert "InlineBackend" in outcome.stdout


async def test_the_size_of_the_notebook() -> None:
    """E2: JUPYTER_COLUMNS and JUPYTER_LINES reach rich."""
    pytest.importorskip("rich")
    env = {"JUPYTER_COLUMNS": "37", "JUPYTER_LINES": "11"}
    outcome = await first_cell("import rich; print(rich.get_console().size)", env=env)
    assert outcome.stdout == "ConsoleDimensions(width=37, height=11)\n"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
        "import dataclasses\n@dataclasses.dataclass\nclass B:\n    x: 'int'\nprint(B(1) == B(1))",
        "import doctest\ndef f():\n    '''\n    >>> 1 + 1\n    2\n    '''\n"
        "print(doctest.testmod() == (0, 1))",
        "import __main__; here = 1; print(__main__.here == 1 and __name__ == '__main__')",
        "import multiprocessing as mp\ndef g(x): return x + 1\n"
        "with mp.get_context('fork').Pool(1) as pool: print(pool.map(g, [1]) == [2])",
    ],
    ids=["pickle", "dataclass", "doctest", "main", "fork"],
)
async def test_main_is_the_users_namespace(code: str) -> None:
    """E8: pickle, dataclasses, doctest and multiprocessing work with what cells define."""
    assert (await first_cell(code)).stdout == "True\n"


async def test_the_path_of_imports(ipython_dir: Path) -> None:
    """E9: the working directory's modules can be imported, and do not shadow the standard ones."""
    assert await value("import sys; sys.path.count('')") == "1"
    found = await value("import os, sys; [os.path.basename(p) for p in sys.path].index('') > 0")
    assert found == "True"
