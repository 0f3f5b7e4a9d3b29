"""Requests: what a reply says, counts, payloads, user expressions, aborts, history, comms."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import (
    Scenario,
    ask,
    comm,
    complete,
    history,
    inspect,
    is_complete,
    queue,
    run,
    scenario,
)

_TARGET = """
def opened(c, msg):
    print('open', msg['content']['data'], msg['content']['target_name'])
    c.on_msg(lambda m: (print('msg', m['content']['data'], [bytes(b) for b in m['buffers']]),
                        c.send({'echo': m['content']['data']}, buffers=[b'xy'])))
    c.on_close(lambda m: print('close', m['content']['data']))
get_ipython().kernel.comm_manager.register_target('mine', opened)
"""
_TARGET2 = _TARGET.replace(
    "get_ipython().kernel.comm_manager", "__import__('comm').get_comm_manager()"
)

_FAILS = run("input()\n1/0", answers=("",))  # when all that waits behind it has been sent

SCENARIOS = [
    # ------------------------------------------------------------ execution counts, Out, In
    scenario("count", "1", "x = 2", "3"),
    scenario("count after an error", "1/0", "1"),
    scenario("count after a syntax error", "a = =", "1"),
    scenario("count of an empty cell", "", "1", " \n", "2", "# only this", "3"),
    scenario("count without history", run("1", store_history=False), "2"),
    scenario(
        "count of a silent cell",
        run("1", silent=True),
        run("2", silent=True, store_history=True),
        "3",
    ),
    scenario("store_history defaults", run("1", silent=False), "1"),
    scenario("In and Out", "1", "'a'", "In", "Out", "_oh is Out, _ih is In"),
    scenario("underscores", "1", "2", "3", "_, __, ___", "_i, _ii, _iii", "_1, _i2"),
    scenario("underscore of the user's", "_ = 5", "7", "_", "del _", "8", "_"),
    scenario("Out of a semicolon", "4;", "Out.get(1)", "_"),
    scenario("Out of None", "None", "Out"),
    scenario("Out without history", run("11", store_history=False), "_", "Out"),
    scenario(
        "dir of the namespace", "sorted(n for n in dir() if not n.startswith('_i'))", fresh=True
    ),
    scenario(
        "names of the module", "__name__, __builtin__.__name__, '__file__' in globals(), __doc__"
    ),
    scenario("main module", "import __main__\n__main__.__dict__ is globals()"),
    scenario(
        "sys.argv[0] ends", "import sys\nisinstance(sys.argv, list)", "sys.path[:2]", fresh=True
    ),
    scenario(
        "cell_id",
        "x = get_ipython()\nlog = []\nx.events.register('pre_run_cell', "
        "lambda info: log.append((info.cell_id, info.cell_meta)))",
        run("1", metadata={"cellId": "abc", "more": [1]}),
        "log[:1]",
    ),
    scenario(
        "code names",
        "f = lambda: 0\nf.__code__.co_filename",
        "import inspect\ninspect.getsource(f)",
    ),
    scenario(
        "linecache",
        "def f():\n    return 1",
        "import linecache\nlinecache.getline(f.__code__.co_filename, 1)",
    ),
    scenario(
        "source across cells",
        "def f(): return 'v1'",
        "def f(): return 'v2'",
        "import inspect\nprint(inspect.getsource(f))",
    ),
    # ------------------------------------------------------------------------- user expressions
    scenario(
        "user expressions",
        run(
            "a = 5",
            user_expressions={
                "x": "a + 1",
                "y": "a / 0",
                "z": "undefined",
                "s": "a = =",
                "t": "'text'",
                "n": "None",
            },
        ),
    ),
    scenario(
        "user expressions rich",
        run("from IPython.display import HTML", user_expressions={"h": "HTML('b')"}),
    ),
    scenario("user expressions after an error", run("1/0", user_expressions={"x": "1"})),
    scenario("user expressions that print", run("pass", user_expressions={"x": "print('side')"})),
    scenario(
        "user expressions with a failing repr",
        run("class A:\n    def __repr__(self): 1/0", user_expressions={"x": "A()"}),
    ),
    scenario("user expressions silently", run("b = 1", silent=True, user_expressions={"x": "b"})),
    # -------------------------------------------------------------------------------- silent
    scenario("silent print", run("print('x')", silent=True)),
    scenario("silent result", run("42", silent=True), "_"),
    scenario("silent display", run("display(1)", silent=True)),
    scenario(
        "silent error does not abort", queue(run("input()\n1/0", silent=True, answers=("",)), "2")
    ),
    # ------------------------------------------------------------------------- stop_on_error
    scenario("stop_on_error", queue(_FAILS, "2", "3")),
    scenario(
        "stop_on_error off", queue(run("input()\n1/0", answers=("",), stop_on_error=False), "2")
    ),
    scenario("after an abort", queue(_FAILS, "2"), "3"),
    scenario("abort of silent ones", queue(_FAILS, run("x = 1", silent=True)), "'x' in dir()"),
    # ------------------------------------------------------------------------------- payloads
    scenario("obj?", "len?"),
    scenario("?obj", "?len"),
    scenario("obj??", "def f():\n    'doc'\n    return 1", "f??"),
    scenario("obj? of a value", "x = [1]\nx?"),
    scenario(
        "obj? of a class",
        "class A:\n    'doc'\n    def __init__(self, a): 'init doc'",
        "A?",
        "a = A(1)\na?",
    ),
    scenario("obj? not found", "nothing_here?"),
    scenario("wildcard?", "aa1 = aa2 = 0\naa*?"),
    scenario("magic?", "%cd?"),
    scenario("psearch", "zzz_a = 1\n%psearch zzz*"),
    scenario("pinfo2", "import json\n%pinfo2 json.dumps"),
    scenario(
        "pdoc, pdef, psource, pfile", "def f(a):\n    'doc'", "%pdoc f", "%pdef f", "%psource f"
    ),
    scenario("?", "?"),
    scenario("load", "%%writefile loaded.py\nx = 1\n", "%load loaded.py"),
    scenario(
        "load a range", "%%writefile loaded.py\na = 1\nb = 2\nc = 3\n", "%load -r 2-3 loaded.py"
    ),
    scenario("load nothing", "%load no_such_file.py"),
    scenario("loadpy", "%%writefile loaded.py\nx = 1\n", "%loadpy loaded"),
    scenario("recall", "a = 1", "%recall 1", "%rep"),
    scenario("page", "%page In"),
    scenario("page of text", "from IPython.core import page\npage.page('text')"),
    scenario(
        "set_next_input",
        "get_ipython().set_next_input('next')",
        "get_ipython().set_next_input('r', replace=True)",
    ),
    scenario("payload and error", "get_ipython().set_next_input('next')\n1/0", "1"),
    scenario("payload of a silent cell", run("get_ipython().set_next_input('next')", silent=True)),
    scenario("two payloads", "get_ipython().set_next_input('a')\nlen?"),
    scenario("exit", "exit", ends=True),
    scenario("exit()", "exit()", ends=True),
    scenario("quit", "quit", ends=True),
    scenario("exit keeping the kernel", "exit(keep_kernel=True)", "1"),
    scenario("exit with prints", "print('a')\nexit\nprint('b')"),
    scenario("exit object", "exit?"),
    scenario("os._exit is another thing", "import os\nos.getpid() != os.getppid()"),
    # -------------------------------------------------------------------------------- history
    scenario("history tail", "a = 1", "b = 2", "c = 3", history("tail", n=2)),
    scenario("history tail, output", "1 + 1", "'x'", history("tail", n=2, output=True)),
    scenario("history tail, all", "a = 1", history("tail", n=100)),
    scenario(
        "history range",
        "a = 1",
        "b = 2",
        "3",
        history("range", session=0, start=1, stop=3),
        history("range", session=0, start=1, stop=4, output=True),
        history("range", session=0, start=2),
        history("range", session=1, start=1, stop=2),
        history("range", session=-1, start=1, stop=2),
        history("range", session=99, start=1, stop=2),
    ),
    scenario(
        "history search",
        "alpha = 1",
        "beta = 2",
        "alpha + 1",
        history("search", pattern="alpha*", n=5),
        history("search", pattern="alpha*", n=1),
        history("search", pattern="*"),
        history("search", pattern="none?"),
        history("search", pattern="alpha*", output=True, n=5),
    ),
    scenario(
        "history search, unique",
        "same = 1",
        "same = 1",
        "other",
        history("search", pattern="same*", unique=True, n=5),
    ),
    scenario(
        "history, not raw",
        "%who_ls int",
        "!true",
        history("tail", n=5, raw=False),
        history("range", start=1, raw=False),
    ),
    scenario("history of unknown type", history("unheard_of")),
    scenario(
        "history without what is not stored",
        run("hidden = 1", store_history=False),
        "shown = 1",
        history("range", session=0, start=0),
    ),
    # ------------------------------------------------------------------------------ completion
    scenario("complete a name", "alphabet = 1", complete("alph")),
    scenario("complete an attribute", "import os", complete("os.path.jo")),
    scenario("complete attributes of a value", "s = 'x'", complete("s.upp")),
    scenario(
        "complete own attributes",
        "class A:\n    def __init__(self): self.abc1 = 1\n    abc2 = 2\na = A()",
        complete("a.abc"),
    ),
    scenario("complete a module", complete("import jso"), complete("from json import dum")),
    scenario(
        "complete a path",
        "open('some_file.txt', 'w').close()",
        complete("open('some_f"),
        complete("%run some_"),
    ),
    scenario("complete a magic", complete("%timei"), complete("%%timei"), complete("timei")),
    scenario(
        "complete dict keys",
        "d = {'key_one': 1, 'key_two': 2, 3: 4}",
        complete("d['key_"),
        complete("d["),
    ),
    scenario("complete kwargs", "def f(*, kwarg_one, kwarg_two=1): pass", complete("f(kwarg_")),
    scenario(
        "complete in the middle",
        "alphabet = 1",
        complete("alph + 1", 4),
        complete("x = alph\ny = 2", 8),
    ),
    scenario("complete nothing", complete("no_such_thing_."), complete("zzz_zzz")),
    scenario("complete after unicode", "größe = 1", complete("'äöü😀'; grö")),
    scenario("complete latex", complete("\\alph"), complete("\\alpha")),
    scenario("complete keywords", complete("whil"), complete("impor")),
    scenario("complete builtins", complete("isinst"), complete("ValueErr")),
    scenario("complete with null", ask("complete", code="isinst", cursor_pos=None)),
    scenario(
        "complete DataFrame columns",
        "import pandas as pd\ndf = pd.DataFrame({'column_a': [1]})",
        complete("df.colum"),
        complete("df['col"),
    ),
    scenario(
        "complete custom",
        "get_ipython().set_custom_completer(lambda self, text: ['custom_a'])",
        complete("cust"),
        spoils=True,
    ),
    scenario(
        "complete __dir__ that fails",
        "class A:\n    def __dir__(self): 1/0\na = A()",
        complete("a.x"),
    ),
    scenario("complete greedy", "l = ['x']", complete("l[0].upp")),
    # ------------------------------------------------------------------------------ inspection
    scenario("inspect", "def f(a, b=1):\n    'doc'", inspect("f"), inspect("f", 1), inspect("f(")),
    scenario("inspect builtin", inspect("len"), inspect("len", 1), inspect("print(")),
    scenario("inspect a value", "x = [1, 2]", inspect("x"), inspect("x", 1)),
    scenario("inspect a module", "import json", inspect("json"), inspect("json.dumps")),
    scenario(
        "inspect a class",
        "class A:\n    'doc'",
        inspect("A"),
        inspect("A", 1),
        "a = A()",
        inspect("a"),
    ),
    scenario("inspect nothing", inspect("nothing_here"), inspect(""), inspect("1 + 1")),
    scenario("inspect a magic", inspect("%cd"), inspect("%%timeit", 1)),
    scenario(
        "inspect in the middle",
        "def f(): 'doc'",
        inspect("f() + 1", 0, 1),
        inspect("a = f(\n  1)", 0, 6),
    ),
    scenario(
        "inspect a failing repr", "class A:\n    def __repr__(self): 1/0\na = A()", inspect("a")
    ),
    scenario(
        "inspect a failing attribute",
        "class A:\n    @property\n    def p(self): 1/0\na = A()",
        inspect("a.p"),
    ),
    scenario("inspect with html", "get_ipython().enable_html_pager = True", inspect("len"), "len?"),
    scenario(
        "inspect omitting",
        ask("inspect", code="len", cursor_pos=3, detail_level=0, omit_sections=["signature"]),
    ),
    scenario(
        "inspect _mimebundle_",
        "class A:\n    def _repr_mimebundle_(self, **k): return {'text/x': 'y'}\na = A()",
        inspect("a"),
    ),
    # ----------------------------------------------------------------------------- is_complete
    scenario(
        "is_complete",
        *[
            is_complete(code)
            for code in (
                "x = 1",
                "if x:",
                "if x:\n    y",
                "if x:\n    y\n",
                "f(",
                "'''a",
                "a = = 1",
                "%time",
                "%%time",
                "%%time\nx\n",
                "def f():\n    return 1\n",
                "\\",
                "",
                "   ",
                "x = 1 \\",
                "for i in x:\n\tpass",
                "@d",
                "!ls",
                "x?",
                "lambda:",
                "raise",
                "class A:",
                "async def f():\n  await x",
                "1 +",
                ")",
                "\n\n",
            )
        ],
    ),
    # ----------------------------------------------------------------------------------- comms
    scenario(
        "comm to a target",
        _TARGET2,
        comm("open", "c1", target_name="mine", data={"a": 1}),
        comm("msg", "c1", data={"b": 2}, buffers=(b"in",)),
        ask("comm_info"),
        comm("close", "c1", data={"z": 0}),
        ask("comm_info"),
        loose_streams=True,
    ),
    scenario(
        "comm by the kernel's manager",
        _TARGET,
        comm("open", "c1", target_name="mine"),
        comm("close", "c1"),
    ),
    scenario("comm to no target", comm("open", "c2", target_name="unheard_of"), ask("comm_info")),
    scenario("comm message to no comm", comm("msg", "c3", data={"x": 1})),
    scenario(
        "comm_info by target",
        _TARGET2,
        comm("open", "c4", target_name="mine"),
        ask("comm_info", target_name="mine"),
        ask("comm_info", target_name="other"),
        comm("close", "c4"),
    ),
    scenario(
        "comm opened by a cell",
        "from comm import create_comm\nc = create_comm(target_name='t', data={'a': 1}, "
        "metadata={'m': 1}, buffers=[b'b'])",
        "c.send({'b': 2}, metadata={'n': 2}, buffers=[b'x', memoryview(b'y')])",
        ask("comm_info"),
        "c.close({'c': 3})",
        "c.close()",
        ask("comm_info"),
    ),
    scenario(
        "comm target that fails",
        "from comm import get_comm_manager\ndef t(c, m): 1/0\n"
        "get_comm_manager().register_target('bad', t)",
        comm("open", "c5", target_name="bad"),
        ask("comm_info"),
        "1",
    ),
    scenario(
        "comm handler that fails",
        "from comm import create_comm\nc = create_comm(target_name='t', comm_id='c6')\n"
        "def h(m): 1/0\nc.on_msg(h)",
        comm("msg", "c6", data={}),
        "c.close()",
    ),
    scenario(
        "comm handler that displays",
        "from comm import create_comm\nc = create_comm(target_name='t', comm_id='c7')\n"
        "c.on_msg(lambda m: display('shown'))",
        comm("msg", "c7", data={}),
        "c.close()",
    ),
    scenario(
        "ipykernel.comm",
        "from ipykernel.comm import Comm\nc = Comm(target_name='t', data={'a': 1})\n"
        "c.send({'b': 1})\nc.close()",
        loose_streams=True,
    ),
    scenario(
        "comm closed by the front end",
        "from comm import create_comm\nc = create_comm(target_name='t', comm_id='c8')\n"
        "c.on_close(lambda m: print('closed'))",
        comm("close", "c8"),
        "c._closed",
    ),
    # ------------------------------------------------------------------------------ the kernel
    scenario("kernel_info", ask("kernel_info")),
    scenario("kernel_info on control", ask("kernel_info", channel="control")),
    scenario("connect", ask("connect")),
    scenario("interrupt while idle", ask("interrupt", channel="control"), "1"),
    scenario("shutdown", ask("shutdown", channel="control", restart=False), ends=True),
    scenario("shutdown for a restart", ask("shutdown", channel="control", restart=True), ends=True),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
