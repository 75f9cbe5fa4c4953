"""A real browser for tests and for screenshots: Debian's Chromium through Playwright. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HINT = "needs a browser: apt-get install chromium, and pip install playwright"


def here() -> bool:
    """Whether both parts are installed."""
    return CHROMIUM.exists() and importlib.util.find_spec("playwright") is not None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


def sideways(page: Any) -> int:
    """By how many pixels a page is wider than its window; 0 = it never scrolls sideways."""
    found = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return int(found)
