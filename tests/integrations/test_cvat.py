import logging
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reference.bright_pyramid import BrightPyramid
from serve.conftest import SQUARES, make_photo, square
from sharpmask.inference.proposer import Proposer
from sharpmask.selection import Selection

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is not installed")
from cvat_sdk import models  # noqa: E402
from cvat_sdk.auto_annotation import driver  # noqa: E402
from cvat_sdk.masks import decode_mask  # noqa: E402

from sharpmask.integrations import cvat  # noqa: E402

PHOTO = make_photo()
IMAGE = Image.fromarray(PHOTO)


@pytest.fixture(scope="module")
def proposer():
    return Proposer(BrightPyramid(), num_proposals=8)


def context(conf_threshold=None, conv_mask_to_poly=False):
    return driver._DetectionFunctionContextImpl(
        frame_name="a.png", conf_threshold=conf_threshold, conv_mask_to_poly=conv_mask_to_poly
    )


def mapped(function, found, kind="mask", conv_mask_to_poly=False):
    """Annotations after CVAT's own mapper has checked them and set the data set's label."""
    label = models.Label(id=77, name="thing", type=kind, attributes=[], sublabels=[])
    mapper = driver._AnnotationMapper(
        logging.getLogger(),
        function.spec.labels,
        [label],
        allow_unmatched_labels=False,
        conv_mask_to_poly=conv_mask_to_poly,
    )
    found = list(found)
    mapper.validate_and_remap(found, 5)
    assert {(each.label_id, each.frame) for each in found} == {(77, 5)}
    return found


def test_masks_pass_cvats_mapper_and_decode_to_ours(proposer):
    function = cvat.Detection(proposer, Selection(), "thing")
    found = mapped(function, function.detect(context(), IMAGE))
    expected = proposer(PHOTO)
    assert len(found) == len(expected)
    for shape, mask in zip(found, expected.masks(), strict=True):
        assert shape.type.value == "mask"
        decoded = decode_mask(shape.points, image_width=320, image_height=240)
        np.testing.assert_array_equal(decoded, mask)


def test_polygons_come_where_cvat_asks_for_them(proposer):
    function = cvat.Detection(proposer, Selection(), "thing")
    shapes = function.detect(context(conv_mask_to_poly=True), IMAGE)
    found = mapped(function, shapes, "polygon", conv_mask_to_poly=True)
    for shape, rings in zip(found, proposer(PHOTO).polygons(), strict=True):
        np.testing.assert_array_equal(np.reshape(shape.points, (-1, 2)), rings[0])


def test_only_confident_masks_come(proposer):
    scores = proposer(PHOTO).scores
    function = cvat.Detection(proposer, Selection(), "thing")
    found = function.detect(context(conf_threshold=float(scores[2])), IMAGE)
    assert len(found) == (scores >= scores[2]).sum() < len(scores)


def test_points_and_boxes_are_answered_by_one_mask(proposer):
    function = cvat.Interaction(proposer)
    assert (function.spec.min_pos_points, function.spec.min_bounding_boxes) == (0, 0)
    read = function.preprocess_image(None, IMAGE)
    (top, left, _), (other_top, other_left, side) = SQUARES
    point = SimpleNamespace(pos_points=[(left + 20, top + 30)], neg_points=[], bounding_box=None)
    corners = (other_left, other_top), (other_left + side, other_top + side)
    box = SimpleNamespace(pos_points=[], neg_points=[], bounding_box=corners)
    for prompts, truth in ((point, SQUARES[0]), (box, SQUARES[1])):
        (shape,) = function.detect(None, read, prompts)
        assert isinstance(shape, cvataa.InteractionResultShape)
        mask = decode_mask(shape.points, image_width=320, image_height=240)
        expected = square(*truth)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_cvat_cli_loads_the_module_with_its_options(monkeypatch):
    common = pytest.importorskip("cvat_cli._internal.common")
    seen = {}

    def proposer(weights, **options):
        seen.update(weights=weights, **options)
        return Proposer(BrightPyramid())

    monkeypatch.setattr(cvat, "Proposer", proposer)
    options = {"top": 3, "label": "thing", "weights": "mine", "scales": "fast"}
    loader = common.FunctionLoader("sharpmask.integrations.cvat", None, options)
    function = loader.load()
    assert seen == {"weights": "mine", "scales": "fast"}
    assert [label.name for label in function.spec.labels] == ["thing"]
    assert len(function.detect(context(), IMAGE)) == 3
    with pytest.raises(ValueError, match="kind: expected detection or interaction, got 'all'"):
        cvat.create(kind="all")
