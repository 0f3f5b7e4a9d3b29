"""A JupyterLab server, and a notebook of it in a browser.

    Lab ────────── the server's process: loopback, a free port, a token
     │
    LabNotebook ── one notebook in one page: what somebody sees, and what they click

The tests, the screenshots and the measurements drive JupyterLab by this. Nothing sleeps: each step
waits for what the page then shows.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Playwright, expect

TIMEOUT = 30.0
"""Seconds that a step may take before it fails: a bound, and no expectation of speed."""

CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

SETTINGS: dict[str, dict[str, object]] = {
    # Else the page asks whether to fetch news, above what is to be clicked.
    "@jupyterlab/apputils-extension/notification": {
        "checkForUpdates": False,
        "doNotDisturbMode": True,
        "fetchNews": "false",
    },
    # Completions that take more than a second are dropped unless this is set.
    "@jupyterlab/completer-extension/manager": {"providerTimeout": int(TIMEOUT * 1000)},
}
"""Settings of JupyterLab's plugins that differ from the defaults."""

expect.set_options(timeout=TIMEOUT * 1000)


class NoChromium(Exception):
    """There is no Chromium; the text says what to install."""


def launch_chromium(playwright: Playwright) -> Browser:
    """A headless Chromium, that of the system.

    Raises:
        NoChromium: There is none on the PATH.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise NoChromium(
            "there is no `chromium` on the PATH; install your system's package, with "
            "`apt-get install chromium` for example"
        )
    return playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_OPTIONS))


class Lab:
    """A server that runs until it is closed.

    Args:
        root: The directory that it serves.
        settings: JupyterLab's directory of settings.
    """

    def __init__(self, root: Path, settings: Path) -> None:
        self.root = root
        self._token = secrets.token_hex(16)
        self._url: str | None = None
        self._log: list[str] = []
        self._told = threading.Event()
        for plugin, values in SETTINGS.items():
            path = settings / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *self._options()],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="the log of JupyterLab")
        self._reader.start()
        if not self._told.wait(TIMEOUT) or self._url is None:
            self.close()
            raise RuntimeError(f"JupyterLab did not start:\n{self.log}")

    @property
    def log(self) -> str:
        """What the server logged."""
        return "".join(self._log)

    def address(self, notebook: str | None = None) -> str:
        """The address of a notebook, or of the launcher, in a workspace of its own."""
        tree = f"/tree/{notebook}" if notebook else ""
        return f"{self._url}/workspaces/{secrets.token_hex(4)}{tree}?token={self._token}"

    def shutdown_kernels(self) -> None:
        """Shut down all kernels, and wait until they are."""
        for kernel in self._call("GET", "/api/kernels"):  # a session may share another's
            self._call("DELETE", f"/api/kernels/{kernel['id']}")

    def close(self) -> None:
        """End the server, which ends its kernels."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT / 3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)

    def _options(self) -> list[str]:
        options = [
            "--no-browser",
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port=0",
            f"--ServerApp.root_dir={self.root}",
            f"--IdentityProvider.token={self._token}",
            "--ServerApp.terminals_enabled=False",
            "--LabApp.extension_manager=readonly",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        if hasattr(os, "getuid") and os.getuid() == 0:
            options.append("--allow-root")
        return options

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if self._url is None and (found := re.search(r"http://127\.0\.0\.1:\d+/lab", line)):
                    self._url = found[0]
                    self._told.set()
        self._told.set()

    def _call(self, method: str, path: str) -> Any:
        request = urllib.request.Request(
            f"{self._url}".removesuffix("/lab") + path,
            method=method,
            headers={"Authorization": f"token {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return json.loads(response.read() or "null")


class LabNotebook:
    """A notebook that is open in a page.

    Args:
        page: The page.
        kernel: The display name of its kernel.
    """

    def __init__(self, page: Page, kernel: str) -> None:
        self.page = page
        self._kernel = kernel
        self._panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self._toolbar = self._panel.locator(".jp-NotebookPanel-toolbar")
        self.kernel_name = self._toolbar.locator(".jp-KernelName")
        self.dialog = page.locator(".jp-Dialog")

    def open(self, address: str) -> None:
        """Go to a notebook's address."""
        self.page.goto(address)
        expect(self._panel).to_be_visible()

    def wait_idle(self) -> None:
        """Wait until the status bar says that the kernel is connected and has nothing to do.

        The circle in the toolbar will not do: it shows a kernel as idle before there is one.
        """
        status_bar = self.page.locator("#jp-main-statusbar")
        expect(status_bar).to_contain_text(f"{self._kernel} | Idle")

    def accept(self) -> None:
        """Press the main button of the dialog."""
        self.dialog.locator("button.jp-mod-accept").click()
        expect(self.dialog).to_have_count(0)

    def choose_kernel(self, display_name: str) -> None:
        """Choose from the dialog that asks for a kernel."""
        self.dialog.locator("select").select_option(label=display_name)
        self.accept()
        self.wait_idle()

    def connect_to_kernel_of(self, name: str) -> None:
        """Choose, by a click on the kernel's name, the kernel of another notebook."""
        self.kernel_name.click()
        option = self.dialog.locator("select option", has_text=name)
        self.dialog.locator("select").select_option(value=option.get_attribute("value"))
        self.accept()
        self.wait_idle()

    def press(self, name: str) -> None:
        """Press a button of the toolbar."""
        self._toolbar.locator(f'[data-jp-item-name="{name}"] jp-button').click()

    def choose(self, menu: str, command: str) -> None:
        """Choose a command from the menu bar."""
        self.page.locator(".lm-MenuBar-item", has_text=menu).click()
        self.page.locator(f'.lm-Menu-item[data-command="{command}"]').click()

    def cell(self, index: int) -> Locator:
        """A cell, counted from 0."""
        return self._panel.locator(".jp-Notebook .jp-Cell").nth(index)

    def editor(self, index: int) -> Locator:
        """Where a cell's code is typed."""
        return self.cell(index).locator(".cm-content")

    def outputs(self, index: int) -> Locator:
        """A cell's outputs."""
        return self.cell(index).locator(".jp-OutputArea-output")

    def run(self, index: int) -> None:
        """Run a cell: a click into it, and the button of the toolbar."""
        self.editor(index).click()
        self.press("run")

    def wait_count(self, index: int, count: int) -> None:
        """Wait until a cell was executed, as the ``count``-th of its kernel."""
        prompt = self.cell(index).locator(".jp-InputArea-prompt")
        expect(prompt).to_have_text(f"[{count}]:")

    def restart(self) -> None:
        """Restart the kernel through the menu and the dialog that asks whether one is sure."""
        self.choose("Kernel", "kernelmenu:restart")
        expect(self.dialog).to_contain_text("Restart Kernel?")
        with self.page.expect_response(re.compile(r"/api/kernels/[^/]+/restart")) as answer:
            self.accept()
        assert answer.value.ok
        self.wait_idle()

    def save(self) -> None:
        """Save, and wait until the tab no longer shows that there is something to save."""
        self.press("save")
        current = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current")
        expect(current).not_to_have_class(re.compile(r"\bjp-mod-dirty\b"))
