"""Cells of plain Python are not searched for IPython's syntax, and come out as IPython has them."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import json.decoder
import random
import string
import tempfile
import textwrap
from collections.abc import Iterator
from types import ModuleType
from unittest.mock import patch

import pytest
from IPython.core import inputtransformer2
from IPython.core.inputtransformer2 import TokenTransformBase, TransformerManager

from pyrepl_kernel.session.session import Session
from pyrepl_kernel.worker.shell import Compiler, of_thread
from pyrepl_kernel.worker.transforms import CellTransformer

PLAIN = [
    "pass",
    "",
    "\n\n  \n",
    "x = 1  # what?",
    "x = 'a?'",
    "x = '''\n%time\n!ls\nname?\n'''",
    "a = b %c",
    "x = y if z else w; v = 1;",
    "print(\n    1,\n    2\n)",
    "f'{x!r} {y:%d}'",
    "await thing()",
    "async def f():\n    async for x in y:\n        yield x",
    "def f(x, /, *, y):\n    return x @ y",
    "if x != 1:\n\n    pass\n",
    "\x0cx = 1",
    "    x = 1\n    y = 2",
    ">>> x = 1\n>>> y = 2\n... z",
    "In [1]: x = 1",
    "x = 1\r\ny = 2\r\n",
    "größe = 'ü'\nprint(größe)",
]
OTHER = [
    "%time 1 + 1",
    "x = %time 1",
    "!ls",
    "files = !ls -a",
    "print?",
    "print??",
    "x = 1\nprint?\n",
    "%%time\nx = 1\n",
    "/print 1",
    ",print a b",
    ";print a b",
    "if True:\n    %time 1\n    !ls\n",
    "x = 'abc",
    "x = (1",
    "def f():\n  x = 1\n y = 2",
    "x = '\\d'\n%time 1",
    "x = \\\n  %time 1",
    "for x in y: %time x",
    "1if x else 2",
    "\0",
    "(" * 300,
]
SCRAPS = [
    *("?", "??", "%", "%%", "!", "!!", "/", ",", ";", "\\\n", "\n", "\n\n", "    ", "\t"),
    *("%time ", "!ls", "x?", "= %who", "= !ls", "# c", "'''", '"', "(", ")", "[", ":", "@", "..."),
    *(">>> ", "In [1]: ", "   ...: ", "await ", "\r\n", "é"),
]
"""What somebody may have typed anywhere. A form feed is not among them: at one, and at the other
separators that str.splitlines knows, IPython's search takes a line for two, and fails."""
MUTATIONS = 700
MODULES = [argparse, ast, inspect, json.decoder, string, tempfile, textwrap]


@pytest.fixture
def quick() -> Iterator[CellTransformer]:
    yield CellTransformer(Compiler().parse_ahead)
    of_thread.parsed = None


def outcome(transformer: TransformerManager, cell: str) -> object:
    try:
        return transformer.transform_cell(cell)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("cell", PLAIN + OTHER)
def test_a_cell_comes_out_as_ipython_has_it(quick: CellTransformer, cell: str) -> None:
    assert outcome(quick, cell) == outcome(TransformerManager(), cell)


@pytest.mark.parametrize("module", MODULES)
def test_so_do_whole_modules_and_their_beginnings(
    quick: CellTransformer, module: ModuleType
) -> None:
    lines = inspect.getsource(module).splitlines(keepends=True)[:400]
    for end in range(20, len(lines), 60):
        cell = "".join(lines[:end])
        assert outcome(quick, cell) == outcome(TransformerManager(), cell)


@functools.cache
def statements() -> list[str]:
    """Those of the modules, short ones, as they stand there."""
    found = []
    for source in map(inspect.getsource, MODULES):
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.stmt) and (end := node.end_lineno) is not None:
                found.append("".join(lines[node.lineno - 1 : end])[:1_000])
    return found


def mutations(seed: int) -> Iterator[str]:
    """Statements with scraps put in and pieces taken out."""
    numbers = random.Random(seed)
    for _ in range(MUTATIONS):
        cell = numbers.choice(statements())
        for _ in range(numbers.randint(1, 3)):
            begin = numbers.randint(0, len(cell))
            end = begin + numbers.choice((0, 0, 1, 3))
            scrap = "" if end > begin else numbers.choice(SCRAPS)
            cell = cell[:begin] + scrap + cell[end:]
        yield cell


@pytest.mark.parametrize("seed", range(3))
def test_so_does_whatever_somebody_types(quick: CellTransformer, seed: int) -> None:
    for cell in mutations(seed):
        assert outcome(quick, cell) == outcome(TransformerManager(), cell)


@pytest.mark.parametrize("cell", PLAIN)
def test_plain_python_is_not_taken_apart(quick: CellTransformer, cell: str) -> None:
    with patch.object(inputtransformer2, "make_tokens_by_line") as search:
        quick.transform_cell(cell)
    search.assert_not_called()


class Shout(TokenTransformBase):  # type: ignore[misc]
    """An extension's own syntax, which is Python too."""

    @classmethod
    def find(cls, tokens_by_line: list[list[object]]) -> Shout | None:
        for line in tokens_by_line:
            if line and getattr(line[0], "string", "") == "shout":
                return cls((1, 0))
        return None

    def transform(self, lines: list[str]) -> list[str]:
        return ["print('SHOUT')\n", *lines[1:]]


def test_an_extension_may_change_what_is_python_already(quick: CellTransformer) -> None:
    quick.token_transformers.append(Shout)
    assert quick.transform_cell("shout\n") == "print('SHOUT')\n"


def test_a_tree_is_given_once_and_for_its_source_and_flags_alone() -> None:
    compiler = Compiler()
    assert compiler.parse_ahead("x = 1\n")
    assert of_thread.parsed is not None
    tree = of_thread.parsed[2]
    assert compiler.ast_parse("x = 1\n") is tree
    assert compiler.ast_parse("x = 1\n") is not tree

    assert compiler.parse_ahead("x = 1\n")
    assert ast.unparse(compiler.ast_parse("y = 2\n")) == "y = 2"
    assert compiler.parse_ahead("1 != 2\n")
    compiler.flags |= 0x40_0000  # of a __future__ import, under which this is no Python
    with pytest.raises(SyntaxError):
        compiler.ast_parse("1 != 2\n")


ONE_LINE = [
    *("pass", "import os", "from os import path", "del x", "for i in range(3): print(i)"),
    *("if x: pass", "while False: pass", "assert x, 'not x'", "raise ValueError('x')"),
    *(
        "import os # PYTHON-MODE",
        "pass  # why?",
        "pass;",
        "return",
        "global x, y",
        "with x as y: pass",
    ),
    *(
        "passport",
        "import_ x",
        "ls",
        "ls -la",
        "cd ..",
        "who",
        "time pass",
        "x",
        "x = 1",
        "print 1",
    ),
    *("importlib", "from_ = 1", "def f(): pass", "for", "import", "not x", "lambda: 0", "twice"),
]
LIKE_IPYTHON = f"""
from IPython.core.prefilter import PrefilterManager
ip = get_ipython()
def twice(x=0): return 2 * x
plain = PrefilterManager(shell=ip)
def differences():
    return [
        line for line in {ONE_LINE}
        for ending in ("", "\\n", "\\n\\n")
        if ip.prefilter(line + ending) != plain.prefilter_lines(line + ending)
    ]
"""


@pytest.mark.parametrize("autocall", [0, 1, 2])
async def test_one_line_comes_out_as_ipython_has_it(autocall: int) -> None:
    async with Session() as session:
        await session.run(LIKE_IPYTHON + f"ip.autocall = {autocall}")
        if autocall < 2:  # else IPython makes "pass()" of it, which is no Python
            await session.run("ip.register_magic_function(lambda line: None, magic_name='pass')")
        assert (await session.run("differences()")).result == {"text/plain": "[]"}


async def test_a_keyword_saves_the_search_of_a_line() -> None:
    async with Session() as session:
        await session.run(
            "from unittest.mock import patch\n"
            "search = patch('IPython.core.prefilter.PrefilterManager.find_handler').start()"
        )
        await session.run("pass")
        await session.run("import os")
        assert (await session.run("search.called;\nsearch.called")).result == {
            "text/plain": "False"
        }


@pytest.mark.parametrize(
    "extension",
    [
        "from IPython.core.prefilter import PrefilterTransformer\n"
        "class Mine(PrefilterTransformer):\n"
        "    def transform(self, line, continue_prompt):\n"
        "        return line.replace('pass', 'print(\\'mine\\')')\n"
        "Mine(shell=get_ipython(), prefilter_manager=get_ipython().prefilter_manager)",
        "from IPython.core.prefilter import PrefilterChecker, PrefilterHandler\n"
        "manager = get_ipython().prefilter_manager\n"
        "class Handler(PrefilterHandler):\n"
        "    handler_name = 'mine'\n"
        "    def handle(self, info):\n"
        "        return 'print(\\'mine\\')' if info.line == 'pass' else info.line\n"
        "class Checker(PrefilterChecker):\n"
        "    def check(self, info):\n"
        "        return manager.get_handler_by_name('mine')\n"
        "Handler(prefilter_manager=manager)\n"
        "Checker(prefilter_manager=manager)",
    ],
    ids=["transformer", "checker"],
)
async def test_an_extension_may_have_its_say_in_a_line_with_a_keyword(extension: str) -> None:
    async with Session() as session:
        assert (await session.run(extension)).error is None
        assert (await session.run("pass")).stdout == "mine\n"


async def test_what_changes_the_tree_of_a_cell_changes_that_of_no_other() -> None:
    mark = """
        import ast
        class Increment(ast.NodeTransformer):
            def visit_Constant(self, node):
                if isinstance(node.value, int):
                    node.value += 1
                return node
        get_ipython().ast_transformers.append(Increment())
    """
    async with Session() as session:
        await session.run(textwrap.dedent(mark))
        for _ in range(3):
            assert (await session.run("print(1)")).stdout == "2\n"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1 is 1", "SyntaxWarning"),
        ("x = '\\d'", "invalid escape sequence"),
        ("x = '\\d'\n%time 1", "invalid escape sequence"),
        ("0x1for x in y", "invalid hexadecimal literal"),
    ],
)
async def test_the_compiler_warns_once(cell: str, words: str) -> None:
    async with Session() as session:
        await session.run("import warnings; warnings.simplefilter('always')")
        assert (await session.run(cell)).stderr.count(words) == 1


async def test_cells_that_await_are_told_from_those_that_only_look_like_it() -> None:
    async with Session() as session:
        outcome = await session.run("import asyncio; await asyncio.sleep(0, 'slept')")
        assert outcome.result == {"text/plain": "'slept'"}
        numbers = "async def numbers():\n    yield 1\n    yield 2\n[n async for n in numbers()]"
        assert (await session.run(numbers)).result == {"text/plain": "[1, 2]"}
        assert (await session.run("'await' + ' me'")).result == {"text/plain": "'await me'"}
