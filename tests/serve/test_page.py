"""The page in a real browser, its masks computed by the server."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from reference.bright_pyramid import BrightPyramid
from serve.browser import Visit, chromium, open_a_broken_file_among_others, work_by_keys_alone
from serve.conftest import SQUARES, make_photo, png, running, square
from sharpmask.inference.proposer import Proposer
from sharpmask.masks import decode
from sharpmask.polygons import polygons
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings

PHOTO = png(make_photo())
SIZE = (240, 320)


def test_the_page_is_there_and_keeps_to_itself(app):
    client = TestClient(app, base_url="http://localhost")
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "style.css", "masks.js", "icon.svg"):
        assert name in page.text or name == "masks.js"
        assert client.get(f"/{name}").status_code == 200
    assert client.get("/config.json").json() == {"mode": "server", "token": False}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(proposer):
    with running(create_app(Photos(proposer), Settings())) as address:
        yield address


@pytest.fixture
def visit(browser, address):
    visit = Visit(browser, address)
    yield visit
    visit.page.close()


def rles_of(download):
    return [each["segmentation"] for each in json.loads(download)["annotations"]]


def check_the_best_is_kept(visit, proposer):
    """By keys; what is saved is as Python has it."""
    visit.page.locator("#canvas").focus()
    visit.page.keyboard.press("n")
    visit.page.keyboard.press("Enter")
    visit.kept(1)
    assert rles_of(visit.download("coco")) == proposer(make_photo()).rles()[:1]


@pytest.mark.real  # a browser
def test_three_masks_are_kept_named_and_saved_as_python_has_them(visit, proposer):
    page = visit.page
    visit.open(("a.png", PHOTO))
    found = proposer(make_photo())
    page.locator("#canvas").focus()
    for _ in range(3):
        page.keyboard.press("n")
        page.keyboard.press("Enter")
    visit.kept(3)
    page.locator("#kept input").nth(1).fill("dog")
    page.locator("#kept input").nth(1).press("Tab")
    content = json.loads(visit.download("coco"))
    assert rles_of(json.dumps(content)) == found.rles()[:3]
    assert [each["area"] for each in content["annotations"]] == found.areas[:3].tolist()
    names = {each["id"]: each["name"] for each in content["categories"]}
    labels = [names[each["category_id"]] for each in content["annotations"]]
    assert labels == ["object", "dog", "object"]
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 320, "height": 240}]

    with zipfile.ZipFile(io.BytesIO(visit.download("yolo"))) as archive:
        assert archive.testzip() is None
        lines = archive.read("labels/a.txt").decode().splitlines()
        assert archive.read("classes.txt") == b"dog\nobject\n"
    for line, rle, label in zip(lines, found.rles(), ("1", "0", "1"), strict=False):
        index, *numbers = line.split()
        assert index == label
        ring = np.array(numbers, float).reshape(-1, 2) * [320, 240]
        np.testing.assert_allclose(ring, polygons(rle)[0], atol=1e-3)

    with zipfile.ZipFile(io.BytesIO(visit.download("labelme"))) as archive:
        shapes = json.loads(archive.read("a.json"))["shapes"]
    expected = [ring.tolist() for rle in found.rles()[:3] for ring in polygons(rle)]
    assert [shape["points"] for shape in shapes] == expected

    with zipfile.ZipFile(io.BytesIO(visit.download("cutouts"))) as archive:
        pictures = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, found.cutout(index))
    assert visit.complaints == []
    assert all(each.startswith((page.url, "blob:")) for each in visit.addresses)


@pytest.mark.real  # a browser
def test_mouse_hovers_keeps_drops_undoes_and_draws_what_was_missed(visit, tmp_path):
    page = visit.page
    visit.open(("a.png", PHOTO))
    (top, left, side), _ = SQUARES
    at = visit.place(left + side / 2, top + side / 2, SIZE)
    page.mouse.move(*at)
    assert visit.status.inner_text().startswith("Mask ")
    page.mouse.click(*at)
    visit.kept(1)
    page.mouse.click(*at)
    visit.kept(0)
    page.keyboard.press("Control+z")
    visit.kept(1)
    page.keyboard.press("Control+z")
    visit.kept(0)
    page.keyboard.press("Control+y")
    visit.kept(1)
    # A box is answered by the object in it, a point beside all masks by nothing here.
    _, (other_top, other_left, other_side) = SQUARES
    page.mouse.move(*visit.place(other_left, other_top, SIZE))
    page.mouse.down()
    page.mouse.move(*visit.place(other_left + other_side, other_top + other_side, SIZE), steps=4)
    page.mouse.up()
    visit.kept(2)
    masks = [decode(rle).astype(bool) for rle in rles_of(visit.download("coco"))]
    for truth in SQUARES:
        overlaps = [(mask & square(*truth)).sum() / (mask | square(*truth)).sum() for mask in masks]
        assert max(overlaps) > 0.9
    # From part to whole.
    page.mouse.move(*at)
    areas = []
    for _ in range(4):
        areas.append(float(visit.status.inner_text().split(" % ")[0].rpartition(" ")[2]))
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(50)
    assert areas == sorted(areas)
    page.screenshot(path=tmp_path / "page.png")
    assert visit.complaints == []


@pytest.mark.real  # a browser
def test_keys_alone_do_all_of_it(visit):
    visit.open(("a.png", PHOTO))
    work_by_keys_alone(visit, SQUARES[0], SIZE)


@pytest.mark.real  # a browser
def test_a_broken_file_costs_itself_alone_and_photos_wait_in_a_strip(visit):
    open_a_broken_file_among_others(visit, PHOTO)


@pytest.mark.real  # a browser
def test_a_photo_is_taken_that_is_dropped_on_the_page(visit, tmp_path, proposer):
    from playwright.sync_api import expect

    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PHOTO)
    page = visit.page
    stage = page.locator("#stage").bounding_box()
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    at = {"x": stage["x"] + 50, "y": stage["y"] + 50}
    at["data"] = {"items": [], "files": files, "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, **at})
    expect(page.locator("#stage")).to_have_class("over")
    devtools.send("Input.dispatchDragEvent", {"type": "drop", **at})
    expect(page.locator("#stage")).not_to_have_class("over")
    expect(page.locator("#strip button").nth(1)).to_contain_text("0 kept", timeout=60_000)
    assert page.locator("#strip button span:not(.bad)").all_inner_texts()[::2] == ["a.png", "b.png"]
    check_the_best_is_kept(visit, proposer)


@pytest.mark.real  # a browser
def test_a_photo_is_taken_that_is_pasted(visit, address, proposer):
    from playwright.sync_api import expect

    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(PHOTO).decode(),
    )
    page.keyboard.press("Control+v")
    expect(visit.status).to_contain_text("masks in", timeout=60_000)
    check_the_best_is_kept(visit, proposer)


@pytest.mark.real  # a browser
def test_a_token_in_the_address_opens_the_page_and_leaves_it(browser, proposer):
    with running(create_app(Photos(proposer), Settings(token="a secret"))) as address:
        visit = Visit(browser, f"{address}/#token=a%20secret")
        visit.open(("a.png", PHOTO))
        assert "secret" not in visit.page.url
        visit.page.close()


@pytest.mark.real  # a browser and twelve megapixels
def test_twelve_megapixels_are_taken(browser):
    truth = (900, 1200, 1400)
    photo = np.zeros((3000, 4000, 3), np.uint8)
    photo[900:2300, 1200:2600] = 250
    with running(
        create_app(Photos(Proposer(BrightPyramid(), num_proposals=10)), Settings())
    ) as address:
        visit = Visit(browser, address)
        visit.open(("large.png", png(photo)))
        visit.page.mouse.click(*visit.place(1900, 1600, (3000, 4000)))
        visit.kept(1)
        (rle,) = rles_of(visit.download("coco"))
        mask = decode(rle).astype(bool)
        expected = square(*truth, height=3000, width=4000)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9
        assert visit.complaints == []
        visit.page.close()
