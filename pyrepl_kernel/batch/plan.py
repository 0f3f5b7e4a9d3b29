"""What is to be run: notebooks, each with its parameters, its output and a key.

All that can be found wrong without running anything is found here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrepl_kernel.batch.parameters import check, inject
from pyrepl_kernel.errors import BatchError

__all__ = ["Job", "check_writable", "plan"]

_NAME_LENGTH = 100
# What nbformat stumbles with over JSON that is no notebook.
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True)
class Job:
    """A notebook to run.

    Attributes:
        source: The notebook.
        output: Where its executed copy goes.
        parameters: What is injected.
        notebook: Its content, parameters injected and outputs removed.
        key: Tells whether a run of before did the same: it changes with the cells, the
            parameters and what else decides the result.
        cwd: The working directory of its cells.
    """

    source: Path
    output: Path
    parameters: Mapping[str, Any]
    notebook: Any
    key: str
    cwd: Path


def plan(
    notebooks: Iterable[str | os.PathLike[str]],
    parameter_sets: Sequence[Mapping[str, Any]],
    output_dir: Path,
    cwd: Path | None = None,
    surroundings: Sequence[str | None] = (),
) -> list[Job]:
    """Read and check notebooks, and lay down where their outputs go.

    Args:
        notebooks: Their paths.
        parameter_sets: Each notebook is run once with each of them.
        output_dir: Where the outputs go.
        cwd: The working directory of all; None for each notebook's own folder.
        surroundings: What else decides the results and so belongs to the keys.

    Raises:
        BatchError: Some of it cannot be run; it names all that are wrong.
    """
    for parameters in parameter_sets:
        check(parameters, "parameters")
    sources = [Path(each) for each in notebooks]
    if not sources:
        raise BatchError("there is no notebook to run")
    _check_sources(sources)
    names = _output_names(sources, parameter_sets)
    problems: list[str] = []
    jobs: list[Job] = []
    for source in sources:
        try:
            content = _read(source)
        except BatchError as error:
            problems.append(str(error))
            continue
        folder = cwd if cwd is not None else source.resolve().parent
        for index, parameters in enumerate(parameter_sets):
            notebook = content if len(parameter_sets) == 1 else _copy(content)
            inject(notebook, parameters)
            output = output_dir / names[source, index]
            key = _key(notebook, parameters, surroundings)
            jobs.append(Job(source, output, parameters, notebook, key, folder))
    if problems:
        raise BatchError("\n".join(problems))
    overwritten = {job.output.resolve() for job in jobs} & {each.resolve() for each in sources}
    if overwritten:
        raise BatchError(
            f"{min(overwritten)} would be overwritten by its own output; "
            "name another folder with -o"
        )
    return jobs


def _check_sources(sources: list[Path]) -> None:
    problems = []
    for source in sources:
        if source.is_dir():
            problems.append(f"{source}: is a folder; name its notebooks: {source}/*.ipynb")
        elif not source.exists():
            problems.append(f"{source}: there is no such notebook")
    for path, count in Counter(source.resolve() for source in sources).items():
        if count > 1:
            problems.append(f"{path}: is given {count} times")
    if problems:
        raise BatchError("\n".join(problems))


def _read(source: Path) -> Any:
    """A notebook without its outputs."""
    import nbformat

    try:
        with warnings.catch_warnings():
            # Of old notebooks, whose cells have no ids: they get some, and that is all.
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(source.read_text(encoding="utf-8"), as_version=4)
            nbformat.validate(notebook)
    except OSError as error:
        raise BatchError(f"{source}: {error.strerror}") from error
    except (nbformat.ValidationError, *_MALFORMED) as error:
        reason = str(error).partition("\n")[0]
        raise BatchError(f"{source}: is no notebook: {reason}") from error
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    if language.lower() != "python":
        raise BatchError(f"{source}: its language is {language}, and this kernel's is Python")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    return notebook


def _copy(notebook: Any) -> Any:
    import copy

    return copy.deepcopy(notebook)


def _key(notebook: Any, parameters: Mapping[str, Any], surroundings: Sequence[str | None]) -> str:
    cells = [
        (cell.cell_type, cell.source, sorted(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]
    # As source code, in which 1 and True and "1" are three things.
    given = sorted((name, repr(value)) for name, value in parameters.items())
    text = json.dumps([cells, given, list(surroundings)])
    return hashlib.sha256(text.encode()).hexdigest()


# ----------------------------------------------------------- names of outputs


def _output_names(
    sources: list[Path], parameter_sets: Sequence[Mapping[str, Any]]
) -> dict[tuple[Path, int], Path]:
    """A path below the output folder for each notebook with each set of parameters.

    Names stay as they are where that tells the notebooks apart; the others keep the part of
    their path that does. They depend on nothing that changes from run to run.
    """
    count = Counter(_folded(source.name) for source in sources)
    alike = [source for source in sources if count[_folded(source.name)] > 1]
    above = Path(os.path.commonpath([each.resolve().parent for each in alike]) if alike else ".")
    suffixes = _suffixes(parameter_sets)
    names: dict[tuple[Path, int], Path] = {}
    for source in sources:
        name = source.resolve().relative_to(above) if source in alike else Path(source.name)
        for index, suffix in enumerate(suffixes):
            names[source, index] = name.with_name(f"{name.stem}{suffix}.ipynb")
    taken = Counter(_folded(str(name)) for name in names.values())
    if clash := [str(name) for name in names.values() if taken[_folded(str(name))] > 1]:
        raise BatchError(f"two outputs would have the same name: {clash[0]}; rename an input")
    return names


def _folded(name: str) -> str:
    # Some file systems do not tell upper case from lower.
    return name.casefold()


def _suffixes(parameter_sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a sweep adds to names: the parameters that differ, or a digest where that is long."""
    if len(parameter_sets) == 1:
        return [""]
    names = sorted({name for each in parameter_sets for name in each})
    differing = [n for n in names if len({repr(each.get(n)) for each in parameter_sets}) > 1]
    readable = [
        "-" + ",".join(f"{n}={_safe(each[n])}" for n in differing if n in each)
        for each in parameter_sets
    ]
    used = Counter(_folded(each) for each in readable)
    suffixes = []
    for text, parameters in zip(readable, parameter_sets, strict=True):
        if len(text) > _NAME_LENGTH or used[_folded(text)] > 1:
            given = repr(sorted(parameters.items()))
            text = "-" + hashlib.sha256(given.encode()).hexdigest()[:16]
        suffixes.append(text)
    if len(set(suffixes)) < len(suffixes):
        raise BatchError("two sets of parameters are the same")
    return suffixes


def _safe(value: object) -> str:
    return re.sub(r"[^\w.+-]+", "_", str(value))


# ------------------------------------------------------------------- folders


def check_writable(folder: Path) -> None:
    """Make a folder, and see that files can be written there.

    Raises:
        BatchError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BatchError(f"cannot write to {folder}: {error.strerror}") from error
