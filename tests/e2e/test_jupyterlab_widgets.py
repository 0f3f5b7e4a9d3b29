"""Widgets in JupyterLab: comms both ways, with a person at one end and the worker at the other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .lab import Lab, LabNotebook
from .notebooks import notebook, write

pytestmark = pytest.mark.browser

Opener = Callable[..., LabNotebook]


@pytest.fixture
def opened(lab: Lab, page: Page, tmp_path: Path) -> Opener:
    """Opens a notebook with the given code cells, which names the kernel under test."""

    def open_notebook(*sources: str) -> LabNotebook:
        path = write(notebook(*sources), lab.root / f"{secrets.token_hex(4)}.ipynb")
        opened = LabNotebook(page)
        opened.open(lab.address(path.name))
        opened.wait_idle()
        return opened

    return open_notebook


def test_a_slider_of_interact_moves_and_its_output_follows(opened: Opener, page: Page) -> None:
    shown = opened(
        "from ipywidgets import interact\n"
        "@interact(x=(0, 10))\n"
        "def square(x=3): print('the square is', x * x)"
    )
    shown.run(0)
    shown.wait_count(0, 1)
    output = shown.cell(0).locator(".jp-OutputArea").first
    expect(output).to_contain_text("the square is 9")
    slider = shown.cell(0).locator(".noUi-handle")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(output).to_contain_text("the square is 16")
    page.keyboard.press("End")
    expect(output).to_contain_text("the square is 100")


def test_an_output_widget_fills(opened: Opener) -> None:
    shown = opened(
        "import ipywidgets as widgets\nout = widgets.Output(layout={'border': '1px solid'})\nout",
        "with out:\n    print('into the widget')\nprint('beside it')",
    )
    shown.run(0)
    shown.wait_count(0, 1)
    shown.run(1)
    shown.wait_count(1, 2)
    expect(shown.cell(0).locator(".jp-OutputArea").first).to_contain_text("into the widget")
    expect(shown.outputs(1)).to_have_text("beside it")


def test_a_button_calls_back_and_a_link_holds(opened: Opener) -> None:
    shown = opened(
        "import ipywidgets as widgets\n"
        "button, label = widgets.Button(description='press'), widgets.Label('not yet')\n"
        "a, b = widgets.IntText(1), widgets.IntText(1)\n"
        "link = widgets.jslink((a, 'value'), (b, 'value'))\n"
        "def pressed(_):\n"
        "    label.value = 'pressed'; a.value = 7\n"
        "button.on_click(pressed)\n"
        "widgets.VBox([button, label, a, b])"
    )
    shown.run(0)
    shown.wait_count(0, 1)
    cell = shown.cell(0)
    cell.locator("button.jupyter-button").click()
    expect(cell.locator(".widget-label", has_text="pressed")).to_be_visible()
    numbers = cell.locator("input[type=number]")
    expect(numbers.nth(0)).to_have_value("7")
    expect(numbers.nth(1)).to_have_value("7")


def test_a_progress_bar_reaches_its_end(opened: Opener) -> None:
    shown = opened(
        "from tqdm.auto import tqdm\ntotal = 0\nfor i in tqdm(range(50)): total += i\ntotal"
    )
    shown.run(0)
    shown.wait_count(0, 1)
    expect(shown.outputs(0).last).to_have_text("1225")
    expect(shown.cell(0).locator(".jp-OutputArea").first).to_contain_text("100%")
    expect(shown.cell(0).locator(".widget-hprogress")).to_be_visible()


def test_two_tabs_on_one_kernel(opened: Opener, page: Page) -> None:
    shown = opened("shared = 'of both tabs'\nprint(shared)", "shared")
    shown.run(0)
    shown.wait_count(0, 1)
    name = page.url.rsplit("/", 1)[-1].split("?")[0]
    shown.choose("File", "filemenu:create-console")
    console = page.locator(".jp-CodeConsole")
    expect(console).to_be_visible()
    prompt = console.locator(".jp-CodeConsole-promptCell .cm-content")
    prompt.click()
    page.keyboard.type("shared[::-1]")
    page.keyboard.press("Shift+Enter")
    expect(console.locator(".jp-OutputArea-output").last).to_have_text("'sbat htob fo'")
    assert name.endswith(".ipynb")


def test_the_button_of_the_toolbar_interrupts_a_sleep(opened: Opener) -> None:
    shown = opened("import time\nprint('asleep', flush=True)\ntime.sleep(60)")
    shown.run(0)
    expect(shown.outputs(0).first).to_have_text("asleep")
    shown.press("interrupt")
    shown.wait_count(0, 1)
    expect(shown.outputs(0).last).to_contain_text("KeyboardInterrupt")


def test_after_a_crash_the_next_cell_runs_and_no_widget_spins(opened: Opener) -> None:
    shown = opened(
        "import ipywidgets as widgets\nslider = widgets.IntSlider(5)\nslider",
        "import os; os._exit(3)",
        "'slider' in globals()",
    )
    shown.run(0)
    shown.wait_count(0, 1)
    expect(shown.cell(0).locator(".widget-slider")).to_be_visible()
    shown.run(1)
    expect(shown.outputs(1).last).to_contain_text(re.compile("exited with code 3"))
    shown.run(2)
    shown.wait_count(2, 1)
    expect(shown.outputs(2)).to_have_text("False")
    expect(shown.cell(0)).not_to_contain_text("Loading widget")
