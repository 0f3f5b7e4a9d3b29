"""JupyterLab with notebooks on the kernel under test."""

from __future__ import annotations

from playwright.sync_api import Page

from tools import lab
from tools.lab import Lab, NoChromium, launch_chromium

from .support import kernelspec

__all__ = ["Lab", "LabNotebook", "NoChromium", "launch_chromium"]


class LabNotebook(lab.LabNotebook):
    """A notebook that is open in a page, on the kernel under test."""

    def __init__(self, page: Page) -> None:
        super().__init__(page, kernelspec().display_name)
