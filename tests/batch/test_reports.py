"""The reports: HTML that needs nothing else, JUnit XML as others read it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from pyrepl_kernel.batch.junit import junit_xml
from pyrepl_kernel.batch.report import html_report
from pyrepl_kernel.batch.results import BatchResult, CellResult, NotebookError, NotebookResult

HOSTILE = "<script>alert('&')</script> \x1b[31mred\x1b[0m \x00\x08 ]]> é"


def result(name: str, **values: object) -> NotebookResult:
    return NotebookResult(Path("in", name), Path("out", name), **values)  # type: ignore[arg-type]


@pytest.fixture
def batch() -> BatchResult:
    error = NotebookError("raised", HOSTILE, 1, HOSTILE, HOSTILE)
    cells = (CellResult(0, HOSTILE, 0.25), CellResult(1, "y", 0.5, ok=False))
    notebooks = [
        result("good.ipynb", status="ok", seconds=2.0, cells=cells[:1], peak_memory=10**8),
        result("bad <&>.ipynb", status="failed", seconds=1.0, cells=cells, error=error),
        result("dead.ipynb", status="failed", error=NotebookError("died", "killed", 0)),
        result("half.ipynb", status="interrupted", seconds=0.5),
        result("never.ipynb"),
    ]
    return BatchResult(notebooks, 4.0, "2026-01-02T03:04:05.678Z", interrupted=True)


def test_junit_says_what_became_of_each(batch: BatchResult, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(junit_xml(batch))
    (suite,) = JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (5, 1, 1, 2)
    assert suite.time == 4.0
    assert suite.timestamp == "2026-01-02T03:04:05"
    cases = list(suite)
    assert [case.name for case in cases] == ["good", "bad <&>", "dead", "half", "never"]
    assert [case.time for case in cases] == [2.0, 1.0, 0.0, 0.5, 0.0]
    kinds = [type(case.result[0]) if case.result else None for case in cases]
    assert kinds == [None, Failure, Error, Skipped, Skipped]
    assert "<script>alert('&')</script> red" in cases[1].result[0].text
    assert cases[2].result[0].message == "killed"


def test_junit_has_what_the_schema_asks_for_in_its_order(batch: BatchResult) -> None:
    suites = ET.fromstring(junit_xml(batch))
    assert suites.tag == "testsuites"
    (suite,) = suites
    required = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "id"}
    assert required | {"package"} <= suite.attrib.keys()
    tags = [child.tag for child in suite]
    assert tags == ["properties", *["testcase"] * 5, "system-out", "system-err"]
    assert all({"name", "classname", "time"} <= case.attrib.keys() for case in suite[1:-2])


class Page(HTMLParser):
    """What a page has: balanced tags, and the addresses that it names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rects = 0
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.rects += tag == "rect" and ("class", "rest") not in attrs
        self.addresses += [str(v) for n, v in attrs if n in ("src", "href", "xlink:href")]
        assert tag not in ("script", "link", "img")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_whole_in_itself_and_shows_each_cell(batch: BatchResult) -> None:
    page = Page(html_report(batch))
    assert page.addresses == []
    assert page.rects == 3  # one for each cell that ran
    for name in ("good.ipynb", "bad <&>.ipynb", "dead.ipynb", "half.ipynb", "never.ipynb"):
        assert name in page.text
    assert "<script>alert('&')</script> red" in page.text
    assert "100 MB" in page.text
    assert "2 failed" in page.text


def test_a_report_of_nothing_is_a_page_too() -> None:
    Page(html_report(BatchResult([], 0.0, "2026-01-02T03:04:05.678Z")))
