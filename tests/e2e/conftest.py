"""What these tests run in: Jupyter directories of their own, a JupyterLab and a browser."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from .lab import Lab


@pytest.fixture(scope="package", autouse=True)
def jupyter_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point Jupyter and IPython at empty directories: no user's settings are seen or changed.

    Yields the directory; the connection files are in its ``runtime``.
    """
    base = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "lab-settings",
            "JUPYTERLAB_WORKSPACES_DIR": "lab-workspaces",
            "IPYTHONDIR": "ipython",
        }.items():
            (base / name).mkdir(mode=0o700)
            patch.setenv(variable, str(base / name))
        for variable in ("JPY_PARENT_PID", "JPY_SESSION_NAME", "JUPYTER_PATH", "MPLBACKEND"):
            patch.delenv(variable, raising=False)
        yield base


@pytest.fixture(scope="module")
def lab(jupyter_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab server."""
    from .lab import Lab

    lab = Lab(tmp_path_factory.mktemp("notebooks"), jupyter_dirs / "lab-settings")
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """A headless Chromium. Where there is none, a test fails in CI and is skipped elsewhere.

    Its pages share a cache: JupyterLab is megabytes of scripts.
    """
    from playwright.sync_api import sync_playwright

    from .lab import NoChromium, launch_chromium

    with sync_playwright() as playwright:
        try:
            browser = launch_chromium(playwright)
        except NoChromium as error:
            message = f"JupyterLab is not tested: {error}, to run these tests."
            if os.environ.get("CI", "").lower() in {"1", "true"}:
                pytest.fail(message)
            pytest.skip(message)
        yield browser.new_context(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture
def page(browser: BrowserContext, lab: Lab) -> Iterator[Page]:
    """A page of a test's own; the kernels end with the test."""
    page = browser.new_page()
    yield page
    page.close()
    lab.shutdown_kernels()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a picture of the page when a test with a browser fails, and say where it is."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    if report.when == "call" and report.failed and "page" in arguments:
        path = arguments["tmp_path"] / "screenshot.png"
        try:
            arguments["page"].screenshot(path=path)
        except Exception as error:  # The page may be what failed; the test's own error matters.
            report.sections.append(("screenshot", f"none could be taken: {error}"))
        else:
            report.sections.append(("screenshot", str(path)))
        report.sections.append(("the last of JupyterLab's log", arguments["lab"].log[-4000:]))
    return report
