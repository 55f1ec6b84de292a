"""Fixtures for tests of the page of a run: ``pytest_plugins = ["page_fixtures"]``."""

import pytest
from pages import CHROMIUM
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A function that opens the page of a run without a network; nothing may have gone wrong."""
    wrong, contexts = [], []

    def open_page(run, anchor="", **options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(run.report.resolve().as_uri() + anchor)
        assert requests == [page.url.partition("#")[0]]
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
