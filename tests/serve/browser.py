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

    def kept(self, count):
        """Wait until so many masks are kept."""
        from playwright.sync_api import expect

        expect(self.page.locator("#kept li")).to_have_count(count, timeout=120_000)

    def place(self, x, y, size):
        """Where a pixel of the photo is on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        height, width = size
        return box["x"] + x * box["width"] / width, box["y"] + y * box["height"] / height

    def download(self, kind):
        with self.page.expect_download() as waiting:
            self.page.click(f"[data-format={kind}]")
        return waiting.value.path().read_bytes()


def work_by_keys_alone(visit, square, size):
    """Reach the photo, keep a mask, take it back, ask by a box; ``square`` is what is bright."""
    page = visit.page
    top, left, side = square
    page.locator("label[for=pick]").focus()
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "canvas":
            break
        page.keyboard.press("Tab")
    else:
        pytest.fail("the photo cannot be reached by the Tab key")
    page.keyboard.press("ArrowLeft")  # a cursor appears in the middle, a step to the left
    scale = page.locator("#canvas").bounding_box()["width"] / size[1]
    move(page, size[1] / 2 - 12 / scale, left + side / 2, "ArrowLeft", "ArrowRight", scale)
    move(page, size[0] / 2, top + side / 2, "ArrowUp", "ArrowDown", scale)
    assert "Mask" in visit.status.inner_text()
    page.keyboard.press("+")
    page.keyboard.press("-")
    page.keyboard.press("Enter")
    visit.kept(1)
    page.keyboard.press("Control+z")
    visit.kept(0)
    page.keyboard.press("b")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("b")
    visit.kept(1)
    for element in page.locator("button, input, #canvas").all():
        if element.is_visible():
            name = element.evaluate(
                "e => e.ariaLabel || e.textContent || (e.labels && e.labels[0]?.textContent)"
            )
            assert (name or "").strip(), element
    assert visit.complaints == []


def move(page, place, target, back, forth, scale):
    """Bring the cursor from a place of the photo to another by an axis' two keys."""
    for _ in range(round(abs(target - place) * scale / 12)):
        page.keyboard.press(forth if target > place else back)


def open_a_broken_file_among_others(visit, photo):
    """The strip shows three photos; the broken one is named, the others are answered."""
    from playwright.sync_api import expect

    visit.open(("a.png", photo), ("broken.png", b"no picture"), ("b.png", photo))
    strip = visit.page.locator("#strip button")
    expect(strip.nth(2)).to_contain_text("0 kept", timeout=120_000)
    expect(strip.nth(1)).to_contain_text("cannot be read")
    strip.nth(1).click()
    expect(visit.status).to_contain_text("broken.png: is not a picture")
    strip.nth(2).click()
    expect(visit.status).to_contain_text("b.png: ")
