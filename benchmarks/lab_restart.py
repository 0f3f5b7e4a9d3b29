"""What somebody waits for in JupyterLab, from the click on Restart to the output of the cell.

    python -m benchmarks.lab_restart [--runs 9] [--json docs/restart.json]

Two notebooks of one cell, ``import pandas, numpy, matplotlib.pyplot``: one on ipykernel, and one
on ours with that import in its warmup. In each, *Run → Restart Kernel and Run All Cells* is chosen,
and the time goes from the click on the dialog's button until the page shows the new output.
Alternating, in one headless Chromium. Needs the extra ``test`` and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, sync_playwright

from pyrepl_kernel.cli import main as command_line
from tools.lab import Lab, NoChromium, launch_chromium

KERNELS = {"ipykernel": "python3", "pyrepl": "pyrepl-warm"}
"""What is measured, and the kernelspec of each."""

_IMPORT = "import pandas, numpy, matplotlib.pyplot"
_CELL = f"{_IMPORT}\nfrom datetime import datetime\n\nprint('imported at', datetime.now().time())"
_PATIENCE = 60_000  # ms
_PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
_OUTPUT = f"{_PANEL} .jp-OutputArea-output"


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times there as well")
    options = parser.parse_args()
    try:
        with laboratory() as (lab, browser):
            times = _measure(lab, browser, options.runs)
    except NoChromium as error:
        print(error, file=sys.stderr)
        return 2
    for label, seconds in times.items():
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{label:<10} median {middle:.3f} s  ({low:.3f} to {high:.3f}, {len(seconds)} runs)")
    theirs, ours = (statistics.median(times[label]) for label in KERNELS)
    print(f"ratio      {ours / theirs:.2f}")
    if options.json is not None:
        rounded = {label: [round(one, 3) for one in seconds] for label, seconds in times.items()}
        versions = {name: version(name) for name in ("ipykernel", "jupyterlab", "pandas")}
        measured = {"cell": _IMPORT, "seconds": rounded, "versions": versions}
        options.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return 0


@contextlib.contextmanager
def laboratory() -> Iterator[tuple[Lab, Browser]]:
    """A server with a notebook for each kernel, ``ipykernel.ipynb`` for one, and a browser.

    Raises:
        NoChromium: There is no Chromium.
    """
    with (
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory(prefix="pyrepl-lab-") as folder,
    ):
        browser = launch_chromium(playwright)
        root = Path(folder)
        _prepare(root)
        lab = Lab(root / "notebooks", root / "settings")
        try:
            yield lab, browser
        finally:
            lab.shutdown_kernels()
            lab.close()
            browser.close()


def open_notebook(lab: Lab, page: Page, label: str) -> None:
    """Open the notebook of a kernel, and run it once."""
    page.set_default_timeout(_PATIENCE)
    page.goto(lab.address(f"{label}.ipynb"))
    # Before there is a kernel, running asks for one.
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    wait = wait_for_output(page)
    choose(page, "Run", "runmenu:run-all")
    wait()


def restart(page: Page) -> float:
    """Restart the kernel and run the cell; the seconds from the click to its output."""
    wait = wait_for_output(page)
    choose(page, "Run", "runmenu:restart-and-run-all")
    button = page.locator(".jp-Dialog button.jp-mod-accept")
    button.wait_for()
    began = time.perf_counter()
    button.click()
    wait()
    return time.perf_counter() - began


def wait_for_output(page: Page) -> Callable[[], object]:
    """A function that waits until the cell shows another output than it does now."""
    now = page.locator(_OUTPUT)
    before = now.first.text_content() if now.count() else ""
    return lambda: page.wait_for_function(
        """([selector, before]) => {
            const output = document.querySelector(selector);
            const text = output ? output.textContent : '';
            return text.startsWith('imported') && text !== before;
        }""",
        arg=[_OUTPUT, before],
    )


def choose(page: Page, menu: str, command: str) -> None:
    """Choose a command from the menu bar."""
    page.locator(".lm-MenuBar-item", has_text=menu).click()
    page.locator(f'.lm-Menu-item[data-command="{command}"]').click()


def _prepare(root: Path) -> None:
    """Notebooks, and a kernelspec with the warmup."""
    os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(root / "settings")
    os.environ["JUPYTER_PATH"] = str(root / "share" / "jupyter")
    options = ["--prefix", str(root), "--name", KERNELS["pyrepl"], "--provisioner"]
    if command_line(["install", *options, "--warmup", _IMPORT]) != 0:
        raise SystemExit("the kernelspec could not be written")
    (root / "notebooks").mkdir()
    for label, kernel in KERNELS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_CELL)])
        notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel}
        nbformat.write(notebook, root / "notebooks" / f"{label}.ipynb")


def _measure(lab: Lab, browser: Browser, runs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {label: [] for label in KERNELS}
    pages = {label: browser.new_page() for label in KERNELS}
    for label, page in pages.items():
        open_notebook(lab, page, label)
    for run in range(runs + 1):
        for label, page in pages.items():
            page.bring_to_front()
            seconds = restart(page)
            if run:  # the first one may still wait for its first spare
                times[label].append(seconds)
    return times


if __name__ == "__main__":
    sys.exit(main())
