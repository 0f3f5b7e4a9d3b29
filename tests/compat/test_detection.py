"""How libraries find out that they are in a notebook: the lines D of docs/compatibility.md."""

from __future__ import annotations

import pytest

from tests.e2e.support import Client, running_kernel

from .support import check, run


def test_the_name_of_the_shells_class(client: Client) -> None:
    """D1: `type(get_ipython()).__name__`, and the class as a string."""
    check(client, "type(get_ipython()).__name__ == 'ZMQInteractiveShell'")
    check(
        client, "str(type(get_ipython())) == \"<class 'ipykernel.zmqshell.ZMQInteractiveShell'>\""
    )
    check(client, "'zmq' in str(type(get_ipython())).lower()")


def test_nothing_of_ipykernel_is_imported_for_that() -> None:
    """D1: a worker imports neither ipykernel, zmq nor comm by itself."""
    with running_kernel() as kernel:
        client = kernel.client()
        names = ("ipykernel.connect", "zmq", "comm", "jupyter_client", "asyncio", "tornado")
        check(client, f"import sys; not [n for n in {names} if n in sys.modules]")
        # Not for the kernel object either.
        check(client, "get_ipython().kernel.session.session != ''")
        check(client, f"not [n for n in {names} if n in sys.modules]")


def test_the_shells_class_is_that_of_ipykernel(client: Client) -> None:
    """D2: `isinstance(get_ipython(), ipykernel.zmqshell.ZMQInteractiveShell)`."""
    run(client, "from ipykernel.zmqshell import ZMQInteractiveShell as Real")
    check(client, "isinstance(get_ipython(), Real)")
    check(client, "type(get_ipython()) is Real")
    check(client, "import ipykernel.zmqshell as z; issubclass(z.ZMQInteractiveShell, Real)")


def test_the_streams_and_hooks_are_those_of_ipykernel(client: Client) -> None:
    """D2: the same for `sys.stdout`, the display publisher and the display hook."""
    check(
        client,
        "import sys\nfrom ipykernel.iostream import OutStream\n"
        "isinstance(sys.stdout, OutStream) and isinstance(sys.stderr, OutStream)",
    )
    check(
        client,
        "from ipykernel.zmqshell import ZMQDisplayPublisher\n"
        "isinstance(get_ipython().display_pub, ZMQDisplayPublisher)",
    )
    check(
        client,
        "from ipykernel.displayhook import ZMQShellDisplayHook\n"
        "isinstance(get_ipython().displayhook, ZMQShellDisplayHook)",
    )


def test_the_config_has_an_app(client: Client) -> None:
    """D3: `"IPKernelApp" in get_ipython().config`."""
    check(client, "'IPKernelApp' in get_ipython().config")
    check(client, "get_ipython().config['IPKernelApp']['connection_file'].endswith('.json')")


def test_tqdm_finds_the_notebook() -> None:
    """D3: `tqdm.autonotebook` takes the notebook's bar."""
    pytest.importorskip("tqdm")
    with running_kernel() as kernel:
        fresh = kernel.client()
        run(fresh, "import warnings; warnings.simplefilter('ignore')")
        check(fresh, "from tqdm.autonotebook import tqdm; tqdm.__module__ == 'tqdm.notebook'")
        check(fresh, "import tqdm.auto, tqdm.notebook as n; issubclass(tqdm.auto.tqdm, n.tqdm)")


def test_the_modules_of_ipykernel_are_there() -> None:
    """D6: `"ipykernel.zmqshell" in sys.modules`, before anybody imports it; then it is itself."""
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "import sys, importlib.util, inspect")
        check(client, "'ipykernel' in sys.modules and 'ipykernel.zmqshell' in sys.modules")
        # Those who walk through all modules do not have it imported.
        assert client.run("1/0").error == "ZeroDivisionError"
        run(client, "def f(): pass\ninspect.getmodule(f); importlib.util.find_spec('ipykernel')")
        run(client, "%load_ext autoreload\n%autoreload 2")
        run(client, "import ipykernel, ipykernel.zmqshell")
        check(client, "'zmq' not in sys.modules and 'jupyter_client' not in sys.modules")
        check(client, "ipykernel.zmqshell.__name__ == 'ipykernel.zmqshell'")
        check(client, "from ipykernel.zmqshell import KernelMagics; inspect.isclass(KernelMagics)")
        check(client, "ipykernel.version_info >= (6,) and ipykernel.__file__.endswith('.py')")
        check(client, "sys.modules['ipykernel.zmqshell'] is ipykernel.zmqshell")
        check(client, "type(ipykernel) is type(sys) and ipykernel.__spec__.loader is not None")


@pytest.mark.parametrize(
    "code",
    [
        "from ipykernel.zmqshell import ZMQInteractiveShell as Z; isinstance(get_ipython(), Z)",
        "import ipykernel.connect as c; c.get_connection_file().endswith('.json')",
        "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.initialized()",
        "from ipykernel import get_connection_file as g; g().endswith('.json')",
        "import ipykernel; ipykernel.__version__ > '6'",
        "from ipykernel import zmqshell; zmqshell.ZMQInteractiveShell is type(get_ipython())",
        "import importlib as i; i.import_module('ipykernel.comm').Comm.__name__ == 'Comm'",
    ],
)
def test_the_first_import_of_ipykernel(code: str) -> None:
    """D6: whichever part of it comes first."""
    with running_kernel() as kernel:
        check(kernel.client(), code)


def test_the_shell_has_a_kernel(client: Client) -> None:
    """D4: `hasattr(get_ipython(), "kernel")`, as ipywidgets asks."""
    check(client, "hasattr(get_ipython(), 'kernel') and get_ipython().kernel is not None")
    check(client, "type(get_ipython().kernel).__name__ == 'IPythonKernel'")


@pytest.mark.parametrize(
    "code, mime",
    [
        ("import plotly.graph_objects as go\ngo.Figure(go.Bar(y=[1, 2]))", "plotly"),
        ("import altair as alt\nalt.Chart(alt.Data(values=[{'a': 1}])).mark_bar()", "text/html"),
        ("from rich import print as rprint\nrprint('[bold]x[/bold]')", "text/html"),
        ("import pandas\npandas.DataFrame({'a': [1]}).style", "text/html"),
    ],
    ids=["plotly", "altair", "rich", "pandas-styler"],
)
def test_renderers_choose_the_notebook(client: Client, code: str, mime: str) -> None:
    """D5: plotly, altair, rich and pandas show what a notebook shows."""
    pytest.importorskip(code.split()[1].split(".")[0])
    outcome = run(client, code)
    mimes = [
        kind
        for message in outcome.messages
        if message["msg_type"] in ("display_data", "execute_result")
        for kind in message["content"]["data"]
    ]
    assert any(mime in kind for kind in mimes), mimes
