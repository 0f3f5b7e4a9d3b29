"""JUnit XML, as continuous integration reads it: a test case for each notebook."""

from __future__ import annotations

import re
import socket
import xml.etree.ElementTree as ET

from pyrepl_kernel.batch.results import BatchResult, NotebookResult, plain

__all__ = ["junit_xml"]

# What XML 1.0 cannot have, not even escaped.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: BatchResult) -> str:
    """A batch as JUnit XML.

    A cell that raised is a *failure*; a timeout, a death and the like is an *error*; what was
    interrupted or not run is *skipped*.
    """
    suites = ET.Element("testsuites")
    kinds = [_kind(each) for each in result.notebooks]
    suite = ET.SubElement(
        suites,
        "testsuite",
        id="0",
        package="",
        name="pyrepl-kernel batch",
        # The schema wants a time without a zone.
        timestamp=result.started.partition(".")[0],
        hostname=socket.gethostname(),
        tests=str(len(kinds)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
        time=f"{result.seconds:.3f}",
    )
    ET.SubElement(suite, "properties")
    for notebook, kind in zip(result.notebooks, kinds, strict=True):
        _add_case(suite, notebook, kind)
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _kind(notebook: NotebookResult) -> str:
    if notebook.error is not None:
        return "failure" if notebook.error.kind == "raised" else "error"
    return "" if notebook.ok else "skipped"


def _add_case(suite: ET.Element, notebook: NotebookResult, kind: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_text(str(notebook.source.parent)),
        name=_text(notebook.output.stem),
        time=f"{notebook.seconds:.3f}",
    )
    error = notebook.error
    if error is not None:
        element = ET.SubElement(case, kind, type=error.kind, message=_text(error.message))
        where = "" if error.cell is None else f"cell {error.cell + 1}:\n{error.source}\n\n"
        element.text = _text(where + (error.traceback or error.message))
    elif kind:
        ET.SubElement(case, kind)


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", plain(text))
