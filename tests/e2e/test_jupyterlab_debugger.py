"""JupyterLab's debugger in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .lab import Lab, LabNotebook
from .notebooks import notebook, write
from .support import only_ours

pytestmark = [pytest.mark.browser, only_ours]

CODE = "def double(value):\n    result = value * 2\n    return result\n\ndouble(21)"


def test_a_breakpoint_in_the_gutter_stops_the_cell(lab: Lab, page: Page, tmp_path: Path) -> None:
    write(notebook(CODE, "'after'"), lab.root / "debugged.ipynb")
    shown = LabNotebook(page)
    shown.open(lab.address("debugged.ipynb"))
    shown.wait_idle()

    shown.press("debugger-icon")
    sidebar = page.locator(".jp-DebuggerSidebar")
    expect(sidebar).to_be_visible()
    gutter = shown.cell(0).locator(".cm-breakpoint-gutter .cm-gutterElement")
    # The first element of a gutter is an invisible one, which gives it its width.
    gutter.nth(3).click()
    listed = sidebar.locator(".jp-DebuggerBreakpoints")
    expect(listed.locator(".jp-DebuggerBreakpoint")).to_have_count(1)

    shown.run(0)
    frames = sidebar.locator(".jp-DebuggerCallstack .jp-DebuggerCallstackFrame")
    expect(frames.first).to_contain_text("double")
    variables = sidebar.locator(".jp-DebuggerVariables")
    expect(variables).to_contain_text("result")
    expect(variables).to_contain_text("42")

    sidebar.locator('jp-button[data-command="debugger:continue"]').click()
    expect(shown.outputs(0)).to_have_text("42")
    expect(frames).to_have_count(0)

    shown.press("debugger-icon")
    shown.run(0)
    shown.run(1)
    expect(shown.outputs(1)).to_have_text("'after'")
