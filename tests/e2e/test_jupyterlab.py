"""JupyterLab in a browser: what somebody does in it on their first day with this kernel."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from .lab import Lab, LabNotebook
from .notebooks import code_cells, notebook, read, write
from .support import kernelspec

pytestmark = pytest.mark.browser

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"
Opener = Callable[..., LabNotebook]


def natural_width(page: Page, index: int) -> int:
    """The width in pixels of the picture that a cell shows, once it is loaded."""
    image = LabNotebook(page).outputs(index).locator("img")
    expect(image).to_be_visible()
    width = image.evaluate("async image => { await image.decode(); return image.naturalWidth; }")
    return int(width)


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


def test_the_dialog_offers_the_kernel_and_a_cell_runs_on_it(
    lab: Lab, page: Page, tmp_path: Path
) -> None:
    unnamed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    write(unnamed, lab.root / "unnamed.ipynb")
    shown = LabNotebook(page)
    shown.open(lab.address("unnamed.ipynb"))
    expect(shown.dialog).to_contain_text("Select Kernel")
    shown.choose_kernel(kernelspec().display_name)
    expect(shown.kernel_name).to_have_text(kernelspec().display_name)

    shown.editor(0).click()
    page.keyboard.type("print('hello ' + 'from', 6 * 7)")
    page.keyboard.press("Shift+Enter")
    shown.wait_count(0, 1)
    expect(shown.outputs(0)).to_have_text("hello from 42")


def test_the_launcher_starts_a_notebook_on_the_kernel(lab: Lab, page: Page, tmp_path: Path) -> None:
    page.goto(lab.address())
    name = kernelspec().display_name
    page.locator(f'.jp-LauncherCard[data-category="Notebook"][title^="{name}"]').first.click()
    started = LabNotebook(page)
    started.wait_idle()
    expect(started.kernel_name).to_have_text(name)
    started.editor(0).click()
    page.keyboard.insert_text("2 ** 10")
    started.press("run")
    started.wait_count(0, 1)
    expect(started.outputs(0)).to_have_text("1024")


def test_a_plot_is_shown(opened: Opener, page: Page) -> None:
    shown = opened(PLOT)
    shown.run(0)
    shown.wait_count(0, 1)
    assert natural_width(page, 0) > 100


def test_an_error_is_shown_with_its_traceback(opened: Opener) -> None:
    shown = opened("def broken():\n    return 1 / 0\n\nbroken()", "'after'")
    shown.run(0)
    shown.wait_count(0, 1)
    error = shown.outputs(0)
    expect(error).to_contain_text("Traceback (most recent call last)")
    expect(error).to_contain_text("broken()")
    expect(error).to_contain_text("ZeroDivisionError: division by zero")
    shown.run(1)
    expect(shown.outputs(1)).to_have_text("'after'")


def test_input_is_asked_below_the_cell(opened: Opener, page: Page) -> None:
    shown = opened("answer = input('name? ')\nprint(answer[::-1])")
    shown.run(0)
    field = shown.cell(0).locator("input.jp-Stdin-input")
    expect(field).to_be_visible()
    field.fill("Ada")
    field.press("Enter")
    shown.wait_count(0, 1)
    expect(shown.outputs(0).last).to_have_text("adA")


def test_tab_completes(opened: Opener, page: Page) -> None:
    shown = opened("surprising_name = 'so named'", "")
    shown.run(0)
    shown.wait_count(0, 1)
    shown.editor(1).click()
    page.keyboard.type("surprising_na")
    page.keyboard.press("Tab")
    expect(page.locator(".jp-Completer-item")).to_contain_text("surprising_name")
    page.keyboard.press("Enter")
    expect(shown.editor(1)).to_have_text("surprising_name")


def test_a_restart_gives_a_fresh_namespace_and_counts_from_one(opened: Opener) -> None:
    shown = opened("kept = 1", "'kept' in globals()")
    shown.run(0)
    shown.wait_count(0, 1)
    shown.run(1)
    shown.wait_count(1, 2)
    expect(shown.outputs(1)).to_have_text("True")

    shown.restart()
    shown.run(1)
    shown.wait_count(1, 1)
    expect(shown.outputs(1)).to_have_text("False")


def test_the_button_of_the_toolbar_interrupts(opened: Opener) -> None:
    shown = opened("kept = 1\nprint('running', flush=True)\nwhile True: pass", "kept")
    shown.run(0)
    expect(shown.outputs(0)).to_have_text("running")
    shown.press("interrupt")
    shown.wait_count(0, 1)
    expect(shown.outputs(0).last).to_contain_text("KeyboardInterrupt")
    shown.run(1)
    shown.wait_count(1, 2)
    expect(shown.outputs(1)).to_have_text("1")


def test_a_saved_notebook_reopens_with_the_same_outputs(
    lab: Lab, opened: Opener, page: Page
) -> None:
    shown = opened("print('text')\n'result'", PLOT, "1 / 0")
    for index in range(3):
        shown.run(index)
        shown.wait_count(index, index + 1)
    before = [shown.outputs(index).all_inner_texts() for index in range(3)]
    picture = shown.outputs(1).locator("img").get_attribute("src")
    shown.save()
    name = page.url.rsplit("/", 1)[-1].split("?")[0]
    assert [cell.execution_count for cell in code_cells(read(lab.root / name))] == [1, 2, 3]

    lab.shutdown_kernels()
    with page.context.new_page() as other:
        again = LabNotebook(other)
        again.open(lab.address(name))
        for index in range(3):
            again.wait_count(index, index + 1)
            expect(again.outputs(index)).to_have_count(len(before[index]))
            assert again.outputs(index).all_inner_texts() == before[index]
        assert again.outputs(1).locator("img").get_attribute("src") == picture
        assert natural_width(other, 1) > 100
        again.wait_idle()


def test_two_tabs_share_a_kernel(lab: Lab, opened: Opener, page: Page) -> None:
    first = opened("shared = 'set in the first tab'", "go = input('go? ')\nprint('first', go)")
    first_name = page.url.rsplit("/", 1)[-1].split(".ipynb")[0]
    path = write(notebook("print(shared)", "print('second', go)"), lab.root / "second.ipynb")
    with page.context.new_page() as other:
        second = LabNotebook(other)
        second.open(lab.address(path.name))
        second.wait_idle()
        second.connect_to_kernel_of(first_name)

        first.run(0)
        first.wait_count(0, 1)
        second.run(0)
        second.wait_count(0, 2)
        expect(second.outputs(0)).to_have_text("set in the first tab")

        # A cell of each at once: the second one waits while the first one asks.
        first.run(1)
        field = first.cell(1).locator("input.jp-Stdin-input")
        expect(field).to_be_visible()
        second.run(1)
        expect(second.cell(1).locator(".jp-InputArea-prompt")).to_have_text("[*]:")
        field.fill("on")
        field.press("Enter")
        first.wait_count(1, 3)
        second.wait_count(1, 4)
        expect(second.outputs(1)).to_have_text("second on")
        expect(first.outputs(1).last).to_have_text("first on")
        expect(first.outputs(1)).to_have_count(2)  # the question, and what was printed

        second.press("interrupt")  # of a kernel that runs nothing
        first.run(0)
        first.wait_count(0, 5)


@pytest.mark.skipif(
    sys.platform != "linux", reason="checkpoints are forks, which are for Linux; run it there"
)
def test_a_crash_is_told_in_its_cell_the_next_cell_runs_and_a_checkpoint_comes_back(
    opened: Opener,
) -> None:
    shown = opened(
        "kept = 42\n%checkpoint good",
        "import ctypes\ndef crash():\n    ctypes.string_at(0)\ncrash()",
        "'kept' in globals()",
        "%rollback good",
        "kept",
    )
    shown.run(0)
    expect(shown.outputs(0)).to_contain_text("Checkpoint 'good' is taken when this cell ends.")
    shown.run(1)
    report = shown.outputs(1)
    expect(report).to_contain_text("The process that ran your code crashed")
    expect(report).to_contain_text("In [2], line 3, in crash")
    expect(report).to_contain_text("ctypes.string_at(0)")
    expect(report).to_contain_text("All variables and imports are lost")
    expect(report).to_contain_text("%rollback good brings back the state of that checkpoint")
    expect(report).not_to_contain_text("[1;31m")  # colours are shown, not spelled out
    shown.wait_idle()
    shown.run(2)
    shown.wait_count(2, 1)
    expect(shown.outputs(2)).to_have_text("False")
    shown.wait_idle()
    shown.run(3)
    expect(shown.outputs(3)).to_contain_text("Back to checkpoint 'good', taken after In [1]")
    shown.run(4)
    shown.wait_count(4, 2)
    expect(shown.outputs(4)).to_have_text("42")
    shown.wait_idle()


def test_a_cell_that_hangs_in_c_is_ended_from_the_toolbar(opened: Opener) -> None:
    hang = "ctypes.PyDLL(None).sleep(600)"
    shown = opened(
        "import ctypes\nprint('begun')\nwhile True:\n    try:\n        "
        f"print(end='', flush=True); {hang}\n    except BaseException: pass",
        "'ctypes' in globals()",
    )
    shown.run(0)
    expect(shown.outputs(0).first).to_have_text("begun")
    shown.press("interrupt")
    shown.page.wait_for_timeout(1000)
    shown.press("interrupt")
    expect(shown.cell(0)).to_contain_text("Interrupt it once more to kill its process")
    expect(shown.cell(0)).to_contain_text("In [1], line 5, in <module>")
    shown.page.wait_for_timeout(1500)
    shown.press("interrupt")
    expect(shown.cell(0)).to_contain_text("did not end on interrupts")
    shown.run(1)
    expect(shown.outputs(1)).to_have_text("False")
