"""A real browser for the page's tests: Playwright's driver with the system's Chromium."""

import functools
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


@contextmanager
def chromium():
    """A browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not PATH:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def static_host(folder):
    """Any web host: it hands out the files of a folder; gives its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Visit:
    """A page that is open in a browser, and what it did besides.

    Attributes:
        page: Playwright's.
        addresses: All that it asked for.
        complaints: Errors on its console.
    """

    def __init__(self, browser, address, **options):
        options = {"viewport": {"width": 1100, "height": 760}, **options}
        self.page = browser.new_page(**options)
        self.addresses, self.complaints = [], []
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: message.type == "error" and self.complaints.append(message.text),
        )
        self.page.goto(address)

    @property
    def status(self):
        return self.page.locator("#status")

    def open(self, *files, wait=120_000):
        from playwright.sync_api import expect

        payloads = [{"name": n, "mimeType": "image/png", "buffer": d} for n, d in files]
        self.page.set_input_files("#pick", payloads)
        expect(self.status).to_contain_text("masks in", timeout=wait)

    def place(self, x, y, size):
        """Where a pixel of the photo is on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        height, width = size
        return box["x"] + x * box["width"] / width, box["y"] + y * box["height"] / height

    def download(self, kind):
        with self.page.expect_download() as waiting:
            self.page.click(f"[data-format={kind}]")
        return waiting.value.path().read_bytes()
