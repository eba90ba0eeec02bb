"""The page without a server: the model runs in the browser, as Python runs it."""

import json
from pathlib import Path

import hotcoco.mask
import numpy as np
import pytest

import sharpmask
from reference.thin_models import thin_file
from serve.browser import (
    Visit,
    chromium,
    open_a_broken_file_among_others,
    static_host,
    work_by_keys_alone,
)
from serve.conftest import SQUARES, make_photo, png
from sharpmask.masks import rle_iou
from sharpmask.serve.page import RUNTIME_FILES, build_page, fetch_runtime

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"
SIZE = (400, 600)


def test_an_archive_that_is_not_the_runtime_is_refused(tmp_path):
    archive = tmp_path / "onnxruntime-web.tgz"
    with pytest.raises(ValueError, match=r"onnxruntime-web\.tgz: cannot be read"):
        build_page("any", tmp_path / "site", runtime=archive)
    archive.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"is not onnxruntime-web-[\d.]+tgz as npm has it"):
        build_page("any", tmp_path / "site", runtime=archive)
    assert not (tmp_path / "site").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; give an empty folder"):
        build_page("any", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def runtime():
    try:
        return fetch_runtime()
    except ValueError as error:
        pytest.skip(f"npm cannot be reached: {error}")


@pytest.fixture(scope="module")
def site(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build_page(sharpmask.defaults.MODEL, folder, runtime=runtime)
    return folder


@pytest.mark.real  # exports a model
def test_a_model_without_a_feature_pyramid_is_refused(runtime, tmp_path):
    with pytest.raises(ValueError, match="runs models with a feature pyramid alone"):
        build_page(str(thin_file(tmp_path)), tmp_path / "site", runtime=runtime)


@pytest.mark.real  # a browser
def test_a_mask_anywhere_on_the_photo_has_the_runs_of_coco():
    """Rectangles of noise, also at the photo's edges, against hotcoco's RLE."""
    rng = np.random.default_rng(0)
    height, width = 5, 6
    static = Path(sharpmask.__file__).parent / "serve" / "static"
    with chromium() as browser, static_host(static) as address:
        page = Visit(browser, address).page
        for _ in range(60):
            top, left = rng.integers(0, (height, width))
            bits = rng.integers(0, 2, (rng.integers(1, height - top + 1),
                                       rng.integers(1, width - left + 1)))  # fmt: skip
            mask = np.zeros((height, width), np.uint8)
            mask[top : top + len(bits), left : left + len(bits[0])] = bits
            given = [bits.ravel(), *bits.shape[::-1], left, top, (height, width)]
            found = page.evaluate(
                "async (given) => (await import('./masks.js')).Mask.ofBits(...given).rle",
                [np.asarray(each).tolist() for each in given],
            )
            truth = hotcoco.mask.encode(np.asfortranarray(mask))
            assert found == truth | {"counts": truth["counts"].decode()}


@pytest.mark.real  # exports the default model, runs it in a browser
def test_the_browser_finds_the_masks_that_python_finds_and_needs_no_network(site):
    assert all((site / "ort" / name).stat().st_size for name in RUNTIME_FILES)
    photo = sharpmask.Proposer(engine="onnx").read(COFFEE)
    found = photo.propose()
    with chromium() as browser, static_host(site) as address:
        visit = Visit(browser, address)
        page = visit.page
        visit.open(("coffee.jpg", COFFEE.read_bytes()), wait=300_000)
        page.context.set_offline(True)
        page.locator("#canvas").focus()
        for _ in range(20):
            page.keyboard.press("n")
            page.keyboard.press("Enter")
        corners = [tuple(map(round, visit.place(*at, SIZE))) for at in ((200, 228), (258, 312))]
        page.mouse.move(*corners[0])
        page.mouse.down()
        page.mouse.move(*corners[1], steps=4)
        page.mouse.up()
        canvas = page.locator("#canvas").bounding_box()
        box = [
            edge
            for x, y in corners  # whole pixels of the screen, shares of one of the photo
            for edge in (
                (x - canvas["x"]) / canvas["width"] * SIZE[1],
                (y - canvas["y"]) / canvas["height"] * SIZE[0],
            )
        ]
        visit.kept(21)
        saved = json.loads(visit.download("coco"))["annotations"]
        expected = [*found[:20], photo.in_box(box)]
        overlaps = [
            rle_iou([mine["segmentation"]], [python.rle])[0, 0]
            for mine, python in zip(saved, expected, strict=True)
        ]
        assert min(overlaps) >= 0.99, overlaps
        for mine, python in zip(saved, expected, strict=True):
            assert mine["score"] == pytest.approx(python.score, abs=0.01)
        # With no mask shown, a click asks for what lies there.
        page.locator("#score").fill("1")
        for _ in range(21):
            page.keyboard.press("Control+z")
        asked = [expected[-1].alone]
        for point in (
            (365, 285), (230, 270), (60, 340), (300, 60), (560, 360), (540, 60), (20, 20),
            (240, 240), (400, 30), (150, 60), (590, 200), (330, 390),
        ):  # fmt: skip
            x, y = map(round, visit.place(*point, SIZE))
            place = (
                (x - canvas["x"]) / canvas["width"] * SIZE[1],
                (y - canvas["y"]) / canvas["height"] * SIZE[0],
            )
            python = photo.at(*place)[:1]
            if not len(python) or any(len(each.at(*place)) for each in asked):
                continue  # what was asked for stays on the page and would be clicked
            page.mouse.click(x, y)
            visit.kept(1)
            (mine,) = json.loads(visit.download("coco"))["annotations"]
            assert rle_iou([mine["segmentation"]], python.rles())[0, 0] >= 0.99, point
            assert mine["score"] == pytest.approx(python[0].score, abs=0.01)
            page.keyboard.press("Control+z")
            visit.kept(0)
            asked.append(python)
        assert len(asked) >= 4
        assert visit.complaints == []
        assert all(each.startswith((address, "blob:")) for each in visit.addresses)
        page.close()


@pytest.mark.real  # runs the default model in a browser
def test_keys_broken_files_and_large_photos_do_without_a_server_too(site):
    with chromium() as browser, static_host(site) as address:
        visit = Visit(browser, address)
        visit.open(("a.png", png(make_photo())), wait=300_000)
        work_by_keys_alone(visit, SQUARES[0], (240, 320))
        visit.page.close()
        visit = Visit(browser, address)
        open_a_broken_file_among_others(visit, png(make_photo()))
        visit.page.close()
        # Twelve megapixels.
        large = make_photo((900, 1200, 1400), height=3000, width=4000)
        visit = Visit(browser, address)
        visit.open(("large.png", png(large)), wait=300_000)
        visit.page.locator("#canvas").focus()
        visit.page.keyboard.press("n")
        visit.page.keyboard.press("Enter")
        visit.kept(1)
        (mine,) = json.loads(visit.download("coco"))["annotations"]
        python = sharpmask.Proposer(engine="onnx")(large)[0]
        assert rle_iou([mine["segmentation"]], [python.rle])[0, 0] >= 0.99
        assert visit.complaints == []
        visit.page.close()
