"""Parameters of notebooks: read from the command line and files, written into a cell.

The convention is papermill's: a cell tagged ``parameters`` has the defaults, and a cell tagged
``injected-parameters`` is put behind it. Without the former, the latter comes first.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pyrepl_kernel.errors import BatchError

__all__ = ["check", "inject", "parse_assignment", "read_file", "source_of"]


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of its version 1.2: ``no`` is a text, ``12:30`` and dates are too.

    Version 1.1, PyYAML's own, makes False, 750 and a date of them, which nobody expects of
    a value typed on a command line.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in PyYAML


_SCALARS = (
    ("null", r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(node.value))


def _float(text: str) -> float:
    # PyYAML's own constructor takes 1:30 and knows no 1e3.
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def parse_assignment(text: str) -> tuple[str, Any]:
    """A parameter as the command line has it, ``name=value``; the value is YAML, and so JSON.

    Raises:
        BatchError: It has no ``=``, its name is none, or its value is no YAML.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise BatchError(f"-p {text}: write it as NAME=VALUE")
    name = name.strip()
    try:
        parsed = yaml.load(value, _Loader) if value.strip() else value
    except yaml.YAMLError as error:
        raise BatchError(
            f"-p {text}: the value is no YAML or JSON: {_one_line(error)}; a text with such "
            f"characters needs quotes of its own: -p '{name}=\"...\"'"
        ) from error
    check({name: parsed}, f"-p {text}")
    return name, parsed


def read_file(path: Path) -> list[dict[str, Any]]:
    """Sets of parameters from a YAML (or JSON) file.

    A map is one set, for every notebook. A list of maps is a sweep: every notebook is run once
    with each of them.

    Raises:
        BatchError: The file cannot be read, or has something else in it.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise BatchError(f"--parameters {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BatchError(f"--parameters {path}: is no YAML: {_one_line(error)}") from error
    sets = content if isinstance(content, list) else [content]
    if not sets or not all(isinstance(each, dict) for each in sets):
        raise BatchError(
            f"--parameters {path}: needs a map of names to values, or a list of such maps"
        )
    for each in sets:
        check(each, f"--parameters {path}")
    return sets


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def check(parameters: Mapping[Any, Any], origin: str) -> None:
    """Check names and values.

    Raises:
        BatchError: A name that Python has not, or a value that cannot be written as source.
    """
    for name, value in parameters.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise BatchError(f"{origin}: {name!r} cannot be the name of a variable")
        try:
            source_of(value)
        except TypeError as error:
            raise BatchError(f"{origin}: parameter {name}: {error}") from error


def source_of(value: Any) -> str:
    """A value as Python source.

    Raises:
        TypeError: It is not made of None, bool, int, float, str, list, tuple and dict.
    """
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if type(value) in (list, tuple):
        inner = ", ".join(source_of(item) for item in value)
        if type(value) is list:
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is dict:
        pairs = (f"{source_of(key)}: {source_of(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    raise TypeError(
        f"a {type(value).__name__} cannot be written into a cell; "
        "give texts, numbers, booleans, None, and lists and dicts of these"
    )


def inject(notebook: Any, parameters: Mapping[str, Any]) -> None:
    """Put a cell with the parameters into a notebook, in place of one from an earlier run."""
    if not parameters:
        return
    from nbformat.v4 import new_code_cell

    lines = [f"{name} = {source_of(value)}" for name, value in parameters.items()]
    cell = new_code_cell("\n".join(["# Parameters", *lines]))
    cell.metadata["tags"] = ["injected-parameters"]
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del cell["id"]  # which came with 4.5
    cells = notebook.cells
    earlier = _tagged(cells, "injected-parameters")
    if earlier is not None:
        cells[earlier] = cell
    else:
        defaults = _tagged(cells, "parameters")
        cells.insert(0 if defaults is None else defaults + 1, cell)


def _tagged(cells: list[Any], tag: str) -> int | None:
    found = (i for i, cell in enumerate(cells) if tag in cell.metadata.get("tags", ()))
    return next(found, None)
