"""The README's picture of a restart: JupyterLab on ipykernel, and below it on ours.

    python -m benchmarks.lab_recording [--times docs/restart.json] [--output FILE.gif]

One restart of each kernel is recorded in a real JupyterLab, in headless Chromium, as
``benchmarks.lab_restart`` measures it. A recording slows down what it shows, so it is played with
the medians that ``--times`` has: the pictures in the order in which they came, the last one at the
time that was measured. Needs the extra ``test`` and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, ViewportSize

from tools.lab import NoChromium

from .lab_restart import KERNELS, choose, laboratory, open_notebook, wait_for_output

_DOCS = Path(__file__).parents[1] / "docs"
_VIEW = ViewportSize(width=840, height=262)
_HEADER = 34
_STEP = 0.1  # seconds that a picture is shown while a clock runs
_BEFORE, _AFTER = 1.5, 3.0  # seconds before the click, and at the end
_COLOURS = 64
_MOST_BYTES = 400_000
_NAMES = {"ipykernel": "ipykernel", "pyrepl": "pyrepl-kernel, with these imports as its warmup"}
_INK, _PAPER, _RUNS, _DONE = "#1b1b1b", "#ffffff", "#b45309", "#15803d"


@dataclass(frozen=True)
class Recording:
    """What a page showed, from the click on Restart on.

    Attributes:
        dialog: The page before the click.
        pictures: Each with the seconds after the click at which it was there; in order.
        end: The page with its output.
        seconds: From the click to the output.
    """

    dialog: Image.Image
    pictures: Sequence[tuple[float, Image.Image]]
    end: Image.Image
    seconds: float

    def at(self, share: float) -> Image.Image:
        """The picture at a share of the time from the click to the output."""
        if share >= 1:
            return self.end
        seen = [picture for when, picture in self.pictures if when <= share * self.seconds]
        return seen[-1] if seen else self.dialog


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, and write the animation; 2 when there is no browser or no measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab_recording")
    parser.add_argument("--times", type=Path, default=_DOCS / "restart.json", metavar="FILE")
    parser.add_argument("--output", type=Path, default=_DOCS / "_static" / "restart.gif")
    options = parser.parse_args(arguments)
    try:
        measured = json.loads(options.times.read_text(encoding="utf-8"))["seconds"]
    except FileNotFoundError:
        print(
            f"there is no {options.times}; python -m benchmarks.lab_restart --json {options.times}"
        )
        return 2
    medians = {label: statistics.median(measured[label]) for label in KERNELS}
    try:
        recordings = _record()
    except NoChromium as error:
        print(error, file=sys.stderr)
        return 2
    options.output.write_bytes(animation(recordings, medians))
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} KB")
    return 0


# ------------------------------------------------------------------ recording


def _record() -> dict[str, Recording]:
    recordings = {}
    with laboratory() as (lab, browser):
        for label in KERNELS:
            page = browser.new_page(viewport=_VIEW)
            open_notebook(lab, page, label)
            page.keyboard.press("Control+b")  # the files beside the notebook
            for _ in range(2):  # the first restart may still wait for its first spare
                recordings[label] = _restart(page)
            page.close()
    return recordings


def _restart(page: Page) -> Recording:
    """Restart by the menu, and keep what the page shows from the click on."""
    wait = wait_for_output(page)
    choose(page, "Run", "runmenu:restart-and-run-all")
    button = page.locator(".jp-Dialog button.jp-mod-accept")
    button.wait_for()
    dialog = _opened(page.screenshot())
    frames: list[tuple[float, bytes]] = []
    is_recording = True
    caster = page.context.new_cdp_session(page)

    def keep(event: dict[str, Any]) -> None:
        frames.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        if is_recording:
            caster.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    caster.on("Page.screencastFrame", keep)
    caster.send("Page.startScreencast", {"format": "png"})
    began = time.time()
    button.click()
    wait()
    ended = time.time()
    is_recording = False
    caster.send("Page.stopScreencast")
    caster.detach()
    pictures = [(when - began, _opened(data)) for when, data in frames if began < when < ended]
    return Recording(dialog, pictures, _opened(page.screenshot()), ended - began)


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


# -------------------------------------------------------------------- drawing


def animation(recordings: dict[str, Recording], medians: dict[str, float]) -> bytes:
    """A GIF of the recordings below one another, played with the times that were measured.

    Raises:
        ValueError: It is too large for a README.
    """
    moments = sorted(
        {
            *medians.values(),
            *(step * _STEP for step in range(int(max(medians.values()) / _STEP) + 1)),
        }
    )
    pages = [_page(recordings, medians, None), *(_page(recordings, medians, at) for at in moments)]
    ends = [*moments[1:], moments[-1] + _AFTER]
    seconds = [_BEFORE, *(end - at for at, end in zip(moments, ends, strict=True))]
    palette = pages[-1].quantize(_COLOURS)
    frames = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    packed = io.BytesIO()
    frames[0].save(
        packed,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[max(20, round(each * 100) * 10) for each in seconds],  # whole hundredths
        loop=0,
        optimize=True,
    )
    if packed.tell() > _MOST_BYTES:
        raise ValueError(f"an animation of {packed.tell()} bytes is too large for a README")
    return packed.getvalue()


def _page(
    recordings: dict[str, Recording], medians: dict[str, float], at: float | None
) -> Image.Image:
    """Both kernels at a time after the click, or before it."""
    size = (_VIEW["width"], len(recordings) * (_VIEW["height"] + _HEADER))
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for number, (label, recording) in enumerate(recordings.items()):
        top = number * (_VIEW["height"] + _HEADER)
        share = 0.0 if at is None else at / medians[label]
        page.paste(recording.dialog if at is None else recording.at(share), (0, top + _HEADER))
        draw.text((10, top + 8), _NAMES[label], _INK, _font(15))
        clock = f"{min(at or 0.0, medians[label]):.1f} s"
        if share >= 1:
            clock = f"output after {medians[label]:.2f} s"
        draw.text((size[0] - 10, top + 8), clock, _DONE if share >= 1 else _RUNS, _font(15), "ra")
    return page


def _font(size: int) -> ImageFont.FreeTypeFont:
    bold = font_manager.FontProperties(family="DejaVu Sans", weight="bold")
    return ImageFont.truetype(font_manager.findfont(bold), size)


if __name__ == "__main__":
    sys.exit(main())
