"""What README and docs name is there: commands, options, modules, files, names in code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrepl_kernel.cli import _build_parser, _parse

ROOT = Path(__file__).parents[1]
# docs/performance.md is written by `make figures`.
PAGES = [ROOT / "README.md", *sorted({*ROOT.glob("docs/*.md")} - {ROOT / "docs/performance.md"})]
LARGEST_PICTURE = 200_000
# Options of other programs, and words that a page says are not ours.
FOREIGN = {
    "--user", "--no-binary", "--existing", "--nthreads", "--resources", "--host", "--port",
    "--engine", "--inplace", "--kernel_name", "--data-dir", "--help",
    # IPython's and ipykernel's
    "--profile", "--profile-dir", "--ipython-dir", "--matplotlib", "--pylab", "--ext",
    "--cache-size", "--colors", "--trio-loop", "--no-stdout", "--quiet", "--debug", "--strict",
}  # fmt: skip

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def code_lines(page: Path) -> Iterator[str]:
    """Lines of indented and fenced code."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@each_page
def test_commands_are_understood_as_they_are_written(page: Path) -> None:
    for line in code_lines(page):
        if re.match(r"(\$ )?pyrepl-kernel [a-z]+($| [^─])", line):
            _parse(shlex.split(line.removeprefix("$ "), comments=True)[1:])
        elif target := re.match(r"make ([a-z]+)\b(?!=)", line):
            assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.M), line


@each_page
def test_options_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    _, commands = _build_parser()
    helps = "".join(parser.format_help() for parser in commands.choices.values())
    known = set(re.findall(r"--[a-z][a-z-]*", helps)) | FOREIGN
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", re.sub(r"python -m \S+[^`\n]*", "", text)))
    assert not named - known
    for module in re.findall(r"python -m ((?:benchmarks|pyrepl_kernel)[.\w]*)", text):
        assert importlib.util.find_spec(module), module


@each_page
def test_no_line_of_text_is_a_comment(page: Path) -> None:
    # MyST drops a line that begins so, and ends the paragraph, or the picture, before it.
    assert not re.findall(r"^%.*", page.read_text(encoding="utf-8"), re.M)


@each_page
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for picture, alt, target in re.findall(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path) if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, target
        if picture:
            assert len(alt) > 40, f"{target}: who cannot see it is not told what it shows"
            assert there.stat().st_size < LARGEST_PICTURE


@each_page
def test_python_is_python_and_imports_what_there_is(page: Path) -> None:
    for block in python_blocks(page):
        tree = compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyrepl_kernel"):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name) or importlib.util.find_spec(
                        f"{node.module}.{name.name}"
                    ), ast.unparse(node)


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n    pyrepl-kernel batch --none x\n\n```python\nfrom pyrepl_kernel import no\n```\n"
    )
    with pytest.raises(Exception, match="does not know --none"):
        test_commands_are_understood_as_they_are_written(page)
    with pytest.raises(AssertionError):
        test_options_and_modules_that_are_named_exist(page)
    with pytest.raises(AssertionError):
        test_python_is_python_and_imports_what_there_is(page)
