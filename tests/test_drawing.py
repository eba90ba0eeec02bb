import weakref

import numpy as np
import pytest

from sharpmask.drawing import COLOURS, draw_masks

RNG = np.random.default_rng(0)


def photo(height=120, width=160):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rectangle(top, bottom, left, right, height=120, width=160):
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def test_tint_and_outline_inside_and_the_photo_outside():
    image = photo()
    mask = rectangle(30, 90, 40, 110)
    drawn = draw_masks(image, [mask], [""])
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    core = rectangle(31, 89, 41, 109)
    assert (drawn[mask & ~core] == rgb(COLOURS[0])).all()
    blend = 0.6 * image[core] + 0.4 * rgb(COLOURS[0])
    np.testing.assert_allclose(drawn[core], blend, atol=0.5001)


def test_outline_grows_with_the_picture():
    image = photo(1200, 1600)
    mask = rectangle(300, 900, 400, 1100, 1200, 1600)
    drawn = draw_masks(image, [mask], [""])
    line = (drawn[600] == rgb(COLOURS[0])).all(axis=-1)
    assert line[400:407].all()
    assert line.sum() == 2 * 7


def test_outline_follows_the_picture_edge():
    image = photo()
    drawn = draw_masks(image, [np.ones((120, 160), np.bool_)], [""])
    assert (drawn[0] == rgb(COLOURS[0])).all()
    assert (drawn[:, -1] == rgb(COLOURS[0])).all()


def painted_best_last(image, masks):
    """Paint as one would by hand: tints from worst to best, then outlines from worst to best."""
    canvas = image.astype(float)
    layers = list(zip(masks, COLOURS, strict=False))[::-1]
    for paint_line in (False, True):
        for mask, colour in layers:
            around = np.pad(mask, 1)
            core = mask & around[:-2, 1:-1] & around[2:, 1:-1]
            core &= around[1:-1, :-2] & around[1:-1, 2:]
            if paint_line:
                canvas[mask & ~core] = rgb(colour)
            else:
                canvas[core] = 0.6 * canvas[core] + 0.4 * rgb(colour)
    return canvas


def test_first_mask_is_on_top():
    image = photo()
    masks = [RNG.random((120, 160)) < 0.9 for _ in range(5)]
    masks += [rectangle(10, 80, 20, 90), rectangle(30, 60, 30, 70), rectangle(50, 120, 0, 160)]
    drawn = draw_masks(image, iter(masks), [""] * 8)
    np.testing.assert_allclose(drawn, painted_best_last(image, masks), atol=0.502)


def test_masks_are_taken_one_by_one_and_let_go():
    alive = []

    def masks():
        for _ in range(20):
            mask = rectangle(5, 50, 5, 50)
            alive.append(weakref.ref(mask))
            yield mask
            del mask
            assert sum(ref() is not None for ref in alive) <= 1

    draw_masks(photo(), masks(), ["0.9"] * 20)
    assert all(ref() is None for ref in alive)


def labelled_box(mask, label="0.93"):
    """Find what the label alone changes: top, bottom, left, right, and the pixels there."""
    image = photo()
    plain = draw_masks(image, [mask], [""])
    drawn = draw_masks(image, [mask], [label])
    rows, columns = np.nonzero((drawn != plain).any(axis=-1))
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    return top, bottom, left, right, drawn[top:bottom, left:right]


@pytest.mark.parametrize(
    "where", [(0, 5, 0, 5), (0, 5, 155, 160), (115, 120, 0, 5), (115, 120, 155, 160)]
)
def test_label_stands_whole_beside_its_mask(where):
    top, bottom, left, right, plate = labelled_box(rectangle(*where))
    assert plate.shape == labelled_box(rectangle(60, 70, 70, 80))[-1].shape
    assert max(top - where[1], where[0] - bottom, left - where[3], where[2] - right) <= 12
    share = (plate == rgb(COLOURS[0])).all(axis=-1).mean()
    assert 0.3 < share < 0.95  # a plate in the mask's colour, with ink on it


def test_ink_is_dark_on_light_plates_and_light_on_dark_ones():
    masks = [rectangle(40, 80, 40, 80)] * len(COLOURS)
    for index, colour in enumerate(COLOURS):
        drawn = [
            draw_masks(photo(), masks, [""] * index + [label] + [""] * (len(COLOURS) - index - 1))
            for label in ("", "0.93")
        ]
        plate = drawn[1][(drawn[0] != drawn[1]).any(axis=-1)].mean(axis=-1)
        assert np.ptp(plate) > 90
        assert (plate.min() < 30) != (plate.max() > 225), colour


def test_best_label_is_on_top_where_labels_must_meet():
    image = photo(20, 50)
    masks = [rectangle(0, 20, 0, 50, 20, 50)] * 9
    first = draw_masks(image, masks, ["0.99"] + [""] * 8)
    plate = (first != draw_masks(image, masks, [""] * 9)).any(axis=-1)
    drawn = draw_masks(image, masks, ["0.99"] + ["0.11"] * 8)
    np.testing.assert_array_equal(drawn[plate], first[plate])


def test_labels_of_one_place_do_not_cover_each_other():
    image = photo(300, 400)
    mask = rectangle(100, 200, 150, 250, 300, 400)

    def labelled_area(count):
        plain = draw_masks(image, [mask] * count, [""] * count)
        drawn = draw_masks(image, [mask] * count, ["0.50"] * count)
        return (drawn != plain).any(axis=-1).sum()

    assert labelled_area(4) > 3.5 * labelled_area(1)


def test_more_masks_than_colours_take_the_colours_in_turn():
    image = photo()
    masks = [rectangle(3 * i, 3 * i + 3, 0, 160) for i in range(30)]
    drawn = draw_masks(image, masks, [""] * 30)
    for i in range(30):
        assert (drawn[3 * i] == rgb(COLOURS[i % len(COLOURS)])).all()
    assert len(set(COLOURS)) == len(COLOURS) >= 10


def test_colours_are_far_apart():
    colours = np.array([rgb(colour) for colour in COLOURS])
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert apart[~np.eye(len(COLOURS), dtype=bool)].min() > 60


def test_drawing_is_deterministic_and_leaves_its_input_alone():
    image = photo()
    before = image.copy()
    masks = [rectangle(10, 80, 20, 90), rectangle(30, 60, 30, 150)]
    first = draw_masks(image, masks, ["0.9", "0.8"])
    np.testing.assert_array_equal(first, draw_masks(image, masks, ["0.9", "0.8"]))
    np.testing.assert_array_equal(image, before)
    assert first is not image


def test_no_masks_gives_the_photo():
    image = photo()
    drawn = draw_masks(image, [], [])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_empty_mask_is_passed_over():
    image = photo()
    drawn = draw_masks(image, [np.zeros((120, 160), np.bool_)], ["0.9"])
    np.testing.assert_array_equal(drawn, image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (3, 3), (16, 200)])
def test_masks_on_a_picture_of_few_pixels_are_drawn(height, width):
    image = photo(height, width)
    drawn = draw_masks(image, [np.ones((height, width), np.bool_)], ["0.9"])
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def test_a_read_only_image_is_drawn_on_a_copy():
    image = photo()
    image.flags.writeable = False
    draw_masks(image, [rectangle(10, 80, 20, 90)], ["0.9"])


@pytest.mark.parametrize(
    "mask",
    [np.ones((120, 161), np.bool_), np.ones((120, 160), np.uint8), np.ones((160, 120), bool)],
)
def test_wrong_masks_are_refused(mask):
    with pytest.raises(ValueError, match=r"expected a bool mask \(120, 160\), got .*; paste"):
        draw_masks(photo(), [mask], ["0.9"])


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b", "c"]])
def test_too_few_or_many_labels_are_refused(labels):
    with pytest.raises(ValueError, match=f"got {len(labels)} for 2 masks"):
        draw_masks(photo(), [rectangle(0, 9, 0, 9)] * 2, labels)
