"""Errors of all kinds."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import Scenario, run, scenario

SCENARIOS = [
    scenario("zero division", "1/0"),
    scenario("name error", "undefined_name"),
    scenario("import error", "import no_such_module_here"),
    scenario("attribute error", "import os\nos.no_such_thing"),
    scenario("syntax error", "a = = 1"),
    scenario("unclosed bracket", "f(1,"),
    scenario("unclosed string", "x = 'abc"),
    scenario("indentation error", "if True:\nx = 1"),
    scenario("unexpected indent", "x = 1\n  y = 2"),
    scenario("tab error", "if 1:\n\tx = 1\n        y = 1"),
    scenario("syntax error with a magic", "%time a = = 1"),
    scenario("return outside", "return 1"),
    scenario("yield outside", "yield 1"),
    scenario("await in a function", "def f():\n    await x"),
    scenario("in a function", "def f(x):\n    y = x * 2\n    return y / 0\n\nf(2)"),
    scenario("across cells", "def f(): raise ValueError('x')", "def g(): f()", "g()"),
    scenario(
        "chained",
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('bad') from e",
    ),
    scenario("implicitly chained", "try:\n    1/0\nexcept ZeroDivisionError:\n    {}['k']"),
    scenario(
        "from None", "try:\n    1/0\nexcept ZeroDivisionError:\n    raise KeyError('k') from None"
    ),
    scenario("note", "e = ValueError('x')\ne.add_note('a note')\nraise e"),
    scenario(
        "group",
        "raise ExceptionGroup('g', [ValueError('a'), ExceptionGroup('h', [KeyError('b')])])",
    ),
    scenario(
        "group, raised ones",
        "def f(n):\n    try: raise ValueError(n)\n"
        "    except ValueError as e: return e\nraise ExceptionGroup('g', [f(1), f(2)])",
    ),
    scenario("base group", "raise BaseExceptionGroup('g', [KeyboardInterrupt()])"),
    scenario("recursion", "def f(): return f()\nf()"),
    scenario("mutual recursion", "def f(): return g()\ndef g(): return f()\nf()"),
    scenario("long", "def f(n): return f(n - 1) if n else 1/0\nf(60)"),
    scenario("SystemExit", "raise SystemExit", "1"),
    scenario("SystemExit with a code", "raise SystemExit(3)"),
    scenario("sys.exit", "import sys\nsys.exit()", "1"),
    scenario("sys.exit with text", "import sys\nsys.exit('bye')"),
    scenario("KeyboardInterrupt raised", "raise KeyboardInterrupt"),
    scenario("KeyboardInterrupt with text", "raise KeyboardInterrupt('stop')"),
    scenario("GeneratorExit", "raise GeneratorExit"),
    scenario("BaseException", "class B(BaseException): pass\nraise B('b')"),
    scenario("StopIteration", "next(iter([]))"),
    scenario("assert", "assert 1 == 2, 'differ'"),
    scenario("error without text", "raise ValueError"),
    scenario("error with many lines", "raise ValueError('a\\nb\\nc')"),
    scenario("error with arguments", "raise ValueError(1, 'b')"),
    scenario(
        "str fails", "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E"
    ),
    scenario(
        "repr of the value fails", "class A:\n    def __repr__(self): raise ValueError('no')\nA()"
    ),
    scenario(
        "_repr_html_ fails", "class A:\n    def _repr_html_(self): raise ValueError('no')\nA()"
    ),
    scenario(
        "_repr_html_ fails in display",
        "class A:\n    def _repr_html_(self): raise ValueError('no')\ndisplay(A())",
    ),
    scenario("repr returns no str", "class A:\n    def __repr__(self): return 1\nA()"),
    scenario("_repr_html_ returns no str", "class A:\n    def _repr_html_(self): return 1\nA()"),
    scenario(
        "_repr_html_ returns None",
        "class A:\n    def _repr_html_(self): return None\n"
        "    def __repr__(self): return 'A!'\nA()",
    ),
    scenario("_repr_mimebundle_ fails", "class A:\n    def _repr_mimebundle_(self, **k): 1/0\nA()"),
    scenario("_ipython_display_ fails", "class A:\n    def _ipython_display_(self): 1/0\nA()"),
    scenario(
        "error in a property",
        "class A:\n    @property\n    def x(self): raise KeyError('x')\nA().x",
    ),
    scenario("error in a decorator", "def d(f): raise TypeError('d')\n@d\ndef f(): pass"),
    scenario("error in a comprehension", "[1/x for x in (1, 0)]"),
    scenario("error in a lambda", "(lambda x: x.y)(1)"),
    scenario("error in a class body", "class A:\n    x = 1/0"),
    scenario("error in exec", "exec('1/0')"),
    scenario("error in eval", "eval('1 +')"),
    scenario("error in a library", "import json\njson.loads('{')"),
    scenario("error in a generator", "def g():\n    yield 1\n    1/0\nlist(g())"),
    scenario(
        "error in a with",
        "class C:\n    def __enter__(self): return self\n"
        "    def __exit__(self, *a): print('exit', a[0].__name__)\nwith C(): 1/0",
    ),
    scenario("error in a magic", "%run no_such_file.py"),
    scenario("unknown magic", "%no_such_magic"),
    scenario("unknown cell magic", "%%no_such_magic\nx"),
    scenario("usage error", "%cd -q -x no/such/dir"),
    scenario("xmode Plain", "%xmode Plain\n", "1/0", "%xmode Context"),
    scenario(
        "xmode Verbose", "%xmode Verbose", "def f(a, b=2): return a / 0\nf(1)", "%xmode Context"
    ),
    scenario("xmode Minimal", "%xmode Minimal", "1/0", "%xmode Context"),
    scenario("xmode Docs", "%xmode Docs", "1/0", "%xmode Context"),
    scenario("tb", "1/0", "%tb"),
    scenario("tb without", "%tb"),
    scenario("sys.last_value", "1/0", "import sys\nsys.last_type, sys.last_value"),
    scenario(
        "custom exception handler",
        "def h(self, etype, value, tb, tb_offset=None):\n"
        "    print('handled', etype.__name__, value)\n"
        "get_ipython().set_custom_exc((ValueError,), h)",
        "raise ValueError('v')",
        "1/0",
        "get_ipython().set_custom_exc((), None)",
    ),
    scenario(
        "custom handler with a traceback",
        "def h(self, etype, value, tb, tb_offset=None):\n"
        "    self.showtraceback((etype, value, tb), tb_offset=tb_offset)\n    return ['mine']\n"
        "get_ipython().set_custom_exc((ValueError,), h)",
        "raise ValueError('v')",
        "get_ipython().set_custom_exc((), None)",
    ),
    scenario(
        "custom handler that fails",
        "def h(self, etype, value, tb, tb_offset=None): 1/0\n"
        "get_ipython().set_custom_exc((ValueError,), h)",
        "raise ValueError('v')",
        "get_ipython().set_custom_exc((), None)",
        loose_streams=True,
    ),
    scenario(
        "showtraceback", "try: 1/0\nexcept Exception: get_ipython().showtraceback()\nprint('on')"
    ),
    scenario(
        "_render_traceback_",
        "class E(Exception):\n"
        "    def _render_traceback_(self): return ['mine', 'two']\nraise E('e')",
    ),
    scenario("sys.excepthook", "import sys\nsys.excepthook.__name__"),
    scenario(
        "UsageError", "from IPython.core.error import UsageError\nraise UsageError('used wrong')"
    ),
    scenario(
        "ast node interactivity",
        "get_ipython().ast_node_interactivity = 'all'",
        "1\n2\n3",
        "get_ipython().ast_node_interactivity = 'last_expr'",
    ),
    scenario(
        "input transformer fails",
        "def t(lines): raise SyntaxError('not like this')\n"
        "get_ipython().input_transformers_cleanup.append(t)",
        "1",
        spoils=True,
    ),
    scenario(
        "ast transformer fails",
        "class T:\n    def visit(self, node): 1/0\nget_ipython().ast_transformers.append(T())",
        "1",
        "2",
    ),
    scenario("error in a silent cell", run("1/0", silent=True)),
    scenario("error not stored", run("1/0", store_history=False)),
    scenario(
        "error in pre_run_cell",
        "def f(info): 1/0\nget_ipython().events.register('pre_run_cell', f)",
        "1",
        "get_ipython().events.unregister('pre_run_cell', f)",
    ),
    scenario(
        "events",
        "log = []\nfor n in ('pre_execute', 'pre_run_cell', 'post_execute', 'post_run_cell'):"
        "\n    get_ipython().events.register(n, lambda *a, n=n: log.append((n, len(a))))",
        "1",
        run("2", silent=True),
        "log",
        "for e in log[:0] or get_ipython().events.callbacks.values(): e[:] = [f for f in e if "
        "f.__name__ != '<lambda>']",
    ),
    scenario("unicode in code", "größe = 1\ngröße / 0"),
    scenario("null byte in code", "x = '\0'"),
    scenario("very long line", "x = [" + "1, " * 500 + "1/0]"),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
