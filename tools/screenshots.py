"""The pictures of JupyterLab in the documentation, taken from a real one.

    python -m tools.screenshots [--only NAME ...]

Each is written to ``docs/_static/NAME.png``. Needs the extra ``test`` and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from pyrepl_kernel.cli import main as command_line
from tools.lab import Lab, LabNotebook, NoChromium, launch_chromium

STATIC = Path(__file__).parents[1] / "docs" / "_static"
PLAIN, WARM = "pyrepl", "science"
"""The kernelspecs: the one that the package brings, and one with a warmup."""
DISPLAY_NAMES = {PLAIN: "Python 3 (pyrepl)", WARM: "Python 3 (science)"}
_MOST_BYTES = 200_000
_COLOURS = 128

CRASHES = """\
import ctypes


def clear(numbers):
    return ctypes.memset(8, 0, len(numbers))


clear([1, 2, 3])"""

CHECKPOINTS = (
    "import pandas as pd\n\norders = pd.DataFrame({'price': range(1, 7), 'items': [3, 0, 2] * 2})",
    "%checkpoint loaded",
    "orders = orders[orders['items'] > 5]  # the wrong limit\nlen(orders)",
    "%checkpoints",
    "%rollback loaded",
    "len(orders)",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures; 2 when there is no browser."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots")
    parser.add_argument("--only", nargs="+", choices=list(_PICTURES), default=list(_PICTURES))
    names = parser.parse_args(arguments).only
    try:
        with _laboratory() as (lab, page):
            for name in names:
                path = STATIC / f"{name}.png"
                path.write_bytes(compressed(_PICTURES[name](lab, page)))
                print(f"{path}: {path.stat().st_size / 1000:.0f} KB")
                lab.shutdown_kernels()
    except NoChromium as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def compressed(png: bytes, colours: int = _COLOURS) -> bytes:
    """The picture with a palette, which is all that text on a page needs.

    Raises:
        ValueError: It is too large for a page of documentation all the same.
    """
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(colours).save(packed, "PNG", optimize=True)
    if packed.tell() > _MOST_BYTES:
        raise ValueError(f"a picture of {packed.tell()} bytes; show less, or take fewer colours")
    return packed.getvalue()


@contextlib.contextmanager
def _laboratory() -> Iterator[tuple[Lab, Page]]:
    """JupyterLab with directories of its own, so that nobody's settings are in the pictures."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch_chromium(playwright)
        root = Path(folder)
        for variable in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            os.environ[f"JUPYTER_{variable}"] = str(root / variable.lower())
        os.environ["IPYTHONDIR"] = str(root / "ipython")
        os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(root / "settings")
        os.environ["PYREPL_TEMPLATE_LINGER"] = "0"
        (root / "work").mkdir()
        install = ["install", "--user", "--provisioner", "--name", WARM]
        if command_line([*install, "--warmup", "import pandas, matplotlib.pyplot"]) != 0:
            raise SystemExit("the kernelspec could not be written")
        lab = Lab(root / "work", root / "settings")
        try:
            size = {"width": 980, "height": 1100}
            yield lab, browser.new_page(viewport=size, device_scale_factor=1.5)  # type: ignore[arg-type]
        finally:
            lab.shutdown_kernels()
            lab.close()
            browser.close()


# -------------------------------------------------------------- the pictures


def _launcher(lab: Lab, page: Page) -> bytes:
    """The launcher's kernels, ours among them."""
    page.goto(lab.address())
    cards = page.locator('.jp-LauncherCard[data-category="Notebook"]')
    for name in DISPLAY_NAMES.values():
        expect(cards.filter(has_text=name)).to_be_visible()
    section = page.locator(".jp-Launcher-section").first
    return _picture(page, [section.locator(".jp-Launcher-sectionHeader"), cards.first, cards.last])


def _crash_report(lab: Lab, page: Page) -> bytes:
    """A cell that crashes, its report, and the next cell in a new worker."""
    shown = _open(lab, page, PLAIN, CRASHES, "print('The session goes on.')")
    _execute(shown, 0, 1)
    expect(shown.outputs(0)).to_contain_text("SIGSEGV")
    _execute(shown, 1)
    expect(shown.outputs(1)).to_have_text("The session goes on.")
    return _cells(shown, range(2))


def _kernel_table(lab: Lab, page: Page) -> bytes:
    """What ``%kernel`` shows of a warm kernel after a restart."""
    shown = _open(lab, page, WARM, "%kernel")
    _until_a_spare_is_ready(shown)
    shown.restart()
    _until_a_spare_is_ready(shown)
    # Where this machine keeps things is of no interest.
    for label in ("notebook", "connection file", "python"):
        shown.outputs(0).locator("tr", has=shown.page.locator(f"text='{label}'")).evaluate(
            "row => row.remove()"
        )
    return _cells(shown, range(1))


def _until_a_spare_is_ready(shown: LabNotebook) -> None:
    for count in range(1, 100):
        _execute(shown, 0, count)
        if "ready" in shown.outputs(0).inner_text():
            return
    raise TimeoutError("there is no spare after a hundred cells")


def _checkpoints(lab: Lab, page: Page) -> bytes:
    """A step that went wrong, the table of checkpoints, and the way back."""
    shown = _open(lab, page, WARM, *CHECKPOINTS)
    for index, count in enumerate((1, 2, 3, 4, 5, 3)):  # the rollback takes the count back, too
        _execute(shown, index, count)
    expect(shown.outputs(5)).to_have_text("6")
    return _cells(shown, range(len(CHECKPOINTS)))


_PICTURES: dict[str, Callable[[Lab, Page], bytes]] = {
    "launcher": _launcher,
    "crash-report": _crash_report,
    "kernel-table": _kernel_table,
    "checkpoints": _checkpoints,
}


# --------------------------------------------------------------- their parts


def _open(lab: Lab, page: Page, kernel: str, *sources: str) -> LabNotebook:
    """A notebook of these cells, open."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in sources])
    notebook.metadata.kernelspec = {"name": kernel, "display_name": DISPLAY_NAMES[kernel]}
    path = lab.root / "analysis.ipynb"
    nbformat.write(notebook, path)
    shown = LabNotebook(page, DISPLAY_NAMES[kernel])
    shown.open(lab.address(path.name))
    shown.wait_idle()
    return shown


def _execute(shown: LabNotebook, index: int, count: int | None = None) -> None:
    """Run a cell, and wait for its end; ``count`` is what it counts as."""
    shown.run(index)
    prompt = shown.cell(index).locator(".jp-InputArea-prompt")
    expect(prompt).to_have_text(re.compile(rf"\[{count or '[0-9]+'}\]:"))
    shown.wait_idle()


def _cells(shown: LabNotebook, indexes: range) -> bytes:
    """A picture of some cells."""
    # Nothing is selected: no cell has a toolbar or a coloured bar.
    shown.page.keyboard.press("Escape")
    return _picture(shown.page, [shown.cell(index) for index in indexes])


def _picture(page: Page, parts: Sequence[Locator]) -> bytes:
    """The rectangle around some parts of the page."""
    boxes = [box for part in parts if (box := part.bounding_box()) is not None]
    left, top = (min(box[side] for box in boxes) for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes) - 3  # where the next cell's frame is
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return page.screenshot(clip=clip)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
