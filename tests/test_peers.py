"""Other methods of benchmarks/peers.py on photos whose objects are known."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sharpmask.masks import decode, rle_boxes

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peers
from onnx_segmentation import OnnxSegmentation
from synthetic_coco import write_coco

SIDE, STRIDE = 320, 4


def network(path, found, prototypes, *, sides=(SIDE, SIDE)):
    """An ONNX file that answers each photo alike, and needs it as input."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    nodes += [
        helper.make_node("Add", [f"{name}_", "nothing"], [name]) for name in ("found", "prototypes")
    ]
    arrays = {"found_": found, "prototypes_": prototypes, "zero": np.float32(0)}
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *sides])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, arrays[f"{name}_"].shape)
            for name in ("found", "prototypes")
        ],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def halves():
    """Prototypes: positive in the left half, positive in the upper half."""
    cells = SIDE // STRIDE
    maps = np.full((1, 2, cells, cells), -5.0)
    maps[0, 0, :, : cells // 2] = 5
    maps[0, 1, : cells // 2] = 5
    return maps


def photo(height, width):
    return np.zeros((height, width, 3), np.uint8)


def decoded(record):
    return decode(record["segmentation"]).astype(bool)


RAW = [  # centre x, y, sides, two classes, two coefficients
    [160, 160, 80, 40, 0.1, 0.9, 1, 0],
    [161, 160, 80, 40, 0.2, 0.8, 0, 1],  # repeats the first
    [80, 160, 60, 100, 0.7, 0.0, 0, 1],
    [300, 300, 10, 10, 0.0, 0.0, 1, 0],  # no score
]
FINAL = [  # corners, score, class, two coefficients
    [120, 140, 200, 180, 0.9, 1, 1, 0],
    [50, 110, 110, 210, 0.7, 0, 0, 1],
]


@pytest.mark.parametrize(
    ("found", "sides"),
    [
        (np.array([RAW]).transpose(0, 2, 1), (SIDE, SIDE)),
        (np.array([FINAL]), (SIDE, SIDE)),
    ],
    ids=["with repeats", "final"],
)
def test_masks_of_a_network_lie_where_its_boxes_and_prototypes_say(tmp_path, halves, found, sides):
    # 160 rows of 320 stand in the middle of the input: row r of the photo is row r + 80 there.
    method = OnnxSegmentation(network(tmp_path / "net.onnx", found, halves, sides=sides), 10)
    records = method(photo(160, 320))
    assert [record["score"] for record in records] == pytest.approx([0.9, 0.7])
    left_half, upper_half = np.zeros((2, 160, 320), bool)
    left_half[60:100, 120:160] = True  # the box ends at 200, the prototype at 160
    upper_half[30:80, 50:110] = True  # the box ends at 210 - 80, the prototype at 160 - 80
    assert np.array_equal(decoded(records[0]), left_half)
    assert np.array_equal(decoded(records[1]), upper_half)


def test_masks_of_a_network_have_the_size_of_a_larger_photo(tmp_path, halves):
    method = OnnxSegmentation(network(tmp_path / "net.onnx", np.array([FINAL]), halves), 10)
    best = decoded(method(photo(640, 640))[0])
    rows, columns = np.nonzero(best)
    assert best.shape == (640, 640)
    assert (rows.min(), rows.max() + 1, columns.min()) == (280, 360, 240)
    assert columns.max() + 1 == pytest.approx(320, abs=2)


def test_a_network_without_prototypes_is_refused(tmp_path, halves):
    path = network(tmp_path / "net.onnx", np.array([FINAL]), halves[0])
    with pytest.raises(ValueError, match=r"net.onnx: expected .* prototypes"):
        OnnxSegmentation(path, 10)


@pytest.mark.slow  # imports scikit-image
def test_felzenszwalb_finds_the_discs_of_a_plain_photo():
    truth = np.zeros((2, 96, 128), bool)
    y, x = np.ogrid[:96, :128]
    truth[0] = (y - 30) ** 2 + (x - 30) ** 2 < 20**2
    truth[1] = (y - 60) ** 2 + (x - 90) ** 2 < 25**2
    pixels = np.full((96, 128, 3), 40, np.uint8)
    pixels[truth[0]], pixels[truth[1]] = (220, 40, 40), (40, 90, 230)
    masks = np.stack([decoded(record) for record in peers.felzenszwalb(pixels)])
    for disc in truth:
        iou = (masks & disc).sum((1, 2)) / (masks | disc).sum((1, 2))
        assert iou.max() > 0.8


def test_recall_of_methods_is_that_of_what_they_give(tmp_path):
    annotations = write_coco(tmp_path, name="ann.json", photos=2, seed=3)
    content = json.loads(annotations.read_text())
    content["images"] = [image | {"complete": True} for image in content["images"]]
    annotations.write_text(json.dumps(content))
    entries = peers.load_ground_truth(annotations).images
    labelled = {
        peers.photo_of(entry, tmp_path / "images").read().tobytes(): [
            {"segmentation": a.rle, "score": 1.0, "category_id": 1} for a in entry.annotations
        ]
        for entry in entries
    }

    def boxes(pixels):
        rles = [record["segmentation"] for record in labelled[pixels.tobytes()]]
        boxes_xywh = rle_boxes(rles)
        boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
        return [{"bbox": box.tolist(), "score": 1.0, "category_id": 1} for box in boxes_xywh]

    methods = {"all": lambda p: labelled[p.tobytes()], "none": lambda p: [], "boxes": boxes}
    found = peers.compare(annotations, tmp_path / "images", methods)
    assert found["photos"] == 2
    assert found["rows"]["all"]["masks"]["AR@100"] == 1
    assert found["rows"]["none"]["masks"]["AR@100"] == 0
    assert found["rows"]["boxes"]["boxes"]["AR@100"] > 0.9
    assert found["rows"]["boxes"]["masks"] is None
