import numpy as np
import pytest
from PIL import Image

from found_masks import rle_of, shapes, write, write_photos
from sharpmask.drawing import cut_out
from sharpmask.writers.cutouts import CutoutWriter


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_cutouts_are_the_photo_where_the_mask_is_and_clear_elsewhere(tmp_path):
    photos, truth = write_photos(tmp_path / "photos", ["a.png", "x/a.jpg"])
    write(CutoutWriter, photos, tmp_path / "out")
    for photo, name in zip(photos, ["a", "a-2"], strict=True):
        files = sorted((tmp_path / "out/cutouts" / name).iterdir())
        assert [file.name for file in files] == ["001.png", "002.png", "003.png", "004.png"]
        for file, mask in zip(files, truth[photo.path], strict=True):
            picture = Image.open(file)
            assert picture.mode == "RGBA"
            pixels, inside = np.asarray(picture), mask[box_of(mask)]
            np.testing.assert_array_equal(pixels[..., 3], np.where(inside, 255, 0))
            np.testing.assert_array_equal(
                pixels[..., :3], np.where(inside[..., None], photo.image[box_of(mask)], 0)
            )


@pytest.mark.parametrize("feather", [1, 2.5, 6])
def test_soft_edge_fades_from_inside_to_outside(feather):
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    picture = cut_out(np.full((60, 80, 3), 200, np.uint8), rle_of(mask), feather)
    margin = int(np.ceil(feather))
    assert picture.shape == (20 + 2 * margin, 40 + 2 * margin, 4)
    across = picture[:, picture.shape[1] // 2, 3].astype(int)
    middle = len(across) // 2
    assert across[middle] == 255
    assert (np.diff(across[:middle]) >= 0).all()
    assert across[margin - 1] < 128 < across[margin]
    assert across[0] < 40
    assert (picture[picture[..., 3] > 0][:, :3] == 200).all()


def test_soft_edge_does_not_fade_at_the_photos_border():
    mask = np.zeros((30, 40), bool)
    mask[:, :20] = True
    alpha = cut_out(np.zeros((30, 40, 3), np.uint8), rle_of(mask), 3)[..., 3]
    assert (alpha[:, 0] == 255).all()
    assert (alpha[0] == alpha[15]).all()


def test_photo_is_not_changed():
    image = np.full((96, 128, 3), 9, np.uint8)
    for mask in shapes():
        cut_out(image, rle_of(mask), 2)
    assert (image == 9).all()


def test_cutouts_of_an_earlier_run_are_gone(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    write(CutoutWriter, photos, tmp_path / "out")
    fewer, _ = write_photos(tmp_path / "photos", ["a.png"], masks=None)
    write(CutoutWriter, fewer, tmp_path / "out")
    assert list((tmp_path / "out/cutouts/a").iterdir()) == []
