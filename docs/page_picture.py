"""The picture of the web page: three masks kept and named, one under the cursor.

python docs/page_picture.py     # needs Chromium and the development tools
"""

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import sharpmask  # noqa: E402
from serve.browser import Visit, chromium  # noqa: E402
from serve.conftest import running  # noqa: E402
from sharpmask.serve.app import create_app  # noqa: E402
from sharpmask.serve.settings import Settings  # noqa: E402

COFFEE = ROOT / "src" / "sharpmask" / "assets" / "coffee.jpg"


def main() -> None:
    """Write ``page.jpg``."""
    with (
        running(create_app(sharpmask.Proposer(), Settings())) as address,
        chromium() as browser,
    ):
        visit = Visit(browser, address, viewport={"width": 1100, "height": 700})
        visit.open((COFFEE.name, COFFEE.read_bytes()))
        page = visit.page
        page.locator("#canvas").focus()
        for number, name in enumerate(("cup", "spoon", "saucer")):
            page.keyboard.press("n")
            page.keyboard.press("Enter")
            page.locator("#kept input").nth(number).fill(name)
            page.locator("#canvas").focus()
        page.mouse.move(*visit.place(180, 300, (400, 600)))
        page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(ROOT / "docs" / "page.jpg", quality=80)


if __name__ == "__main__":
    main()
