import cv2
import numpy as np
import pytest
from PIL import Image

from found_masks import segments_of, write, write_photos
from sharpmask.writers.mask_pngs import MaskWriter, indexed


def many_masks(count):
    """Pairs of pixels in a row, each one pixel on from the better one."""
    masks = np.zeros((count, 1, count + 1), bool)
    for number, mask in enumerate(masks):
        mask[0, number : number + 2] = True
    return segments_of(masks)


def test_each_mask_is_a_picture_that_opencv_reads(tmp_path):
    photos, truth = write_photos(tmp_path / "photos", ["a.png", "x/a.png"])
    write(MaskWriter, photos, tmp_path / "out")
    for photo, name in zip(photos, ["a", "a-2"], strict=True):
        folder = tmp_path / "out/masks/single" / name
        assert sorted(path.name for path in folder.iterdir()) == [f"00{k}.png" for k in range(1, 5)]
        for number, mask in enumerate(truth[photo.path], start=1):
            picture = cv2.imread(str(folder / f"00{number}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(picture, np.where(mask, 255, 0))


def test_indexed_picture_shows_the_best_on_top(tmp_path):
    photos, truth = write_photos(tmp_path / "photos", ["a.png"])
    write(MaskWriter, photos, tmp_path / "out")
    masks = np.array(truth[photos[0].path])
    picture = Image.open(tmp_path / "out/masks/indexed/a.png")
    assert picture.mode == "P"
    expected = np.where(masks.any(0), masks.argmax(0) + 1, 0)
    np.testing.assert_array_equal(picture, expected)
    colours = {tuple(colour) for colour in np.reshape(picture.getpalette(), (-1, 3))[:5].tolist()}
    assert len(colours) == 5
    assert (0, 0, 0) in colours


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16"), (1000, "I;16")])
def test_more_than_255_masks_take_16_bits(tmp_path, count, mode):
    picture = indexed(many_masks(count))
    picture.save(tmp_path / "a.png")
    assert picture.mode == mode
    back = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(back[0], [1, *range(1, count + 1)])


def test_palette_is_that_of_pascal_voc():
    palette = np.reshape(indexed(many_masks(1)).getpalette(), (-1, 3)).tolist()
    assert palette[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette[15] == [192, 128, 128]
    assert palette[255] == [224, 224, 192]


def test_pictures_of_an_earlier_run_are_gone(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    write(MaskWriter, photos, tmp_path / "out")
    fewer, _ = write_photos(tmp_path / "photos", ["a.png"], masks=None)
    write(MaskWriter, fewer, tmp_path / "out")
    assert list((tmp_path / "out/masks/single/a").iterdir()) == []
    assert not np.any(Image.open(tmp_path / "out/masks/indexed/a.png"))
