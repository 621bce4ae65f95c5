"""A headless Chromium for the pages that people see: Debian's own, driven by Playwright."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser, for all tests of the session; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright (pip install '.[dev]')")
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url or path, width=1280, dark=False)`: the page, offline but for a loopback address; anything that is said in its
    console or fails in it is in `page.faults`."""
    contexts = []

    def open_one(where: str | Path, width: int = 1280, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", bypass_csp=False
        )
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("console", lambda said: page.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("dialog", lambda dialog: (page.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda request: page.faults.append(f"failed {request.url[:80]}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1"))
                else page.faults.append(f"asked {request.url[:80]}")
            ),
        )
        page.goto(where.as_uri() if isinstance(where, Path) else where)
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def serious_faults() -> Callable[[Any], list[str]]:
    """`serious_faults(page)`: what axe-core finds that is serious or critical, a line each."""
    source = pytest.importorskip("axe_playwright_python", reason="no axe-core (pip install '.[dev]')")
    text = (Path(source.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def find(page: Any) -> list[str]:
        page.evaluate(text)  # not as an element: the page's own policy stays as it is
        found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{fault['id']}: {fault['help']}: {node['html'][:160]} {node['any'][0]['message'][:200] if node['any'] else ''}"
            for fault in found
            if fault["impact"] in SERIOUS
            for node in fault["nodes"][:3]
        ]

    return find
