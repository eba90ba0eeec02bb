import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sharpmask.evaluation.average_recall import IOU_THRESHOLDS, AverageRecall
from sharpmask.evaluation.evaluator import BoundaryQuality, Evaluation
from sharpmask.evaluation.report import (
    plot_recall_by_iou,
    plot_recall_by_proposals,
    results_table,
    to_json,
    write_report,
)


def recall(first_rank):
    """One small and three medium objects; the small one and one more are found."""
    accumulator = AverageRecall()
    iou = np.zeros((1000, 4))
    iou[first_rank, 0], iou[first_rank + 50, 1] = 1, 0.7
    accumulator.add(iou, np.array([100.0, 5000, 5000, 5000]))
    return accumulator.summarize()


@pytest.fixture
def evaluation():
    boundary = BoundaryQuality(0.625, 0.75, 2)
    return Evaluation(3, 4, 1000, boxes=recall(0), masks=recall(40), boundary=boundary)


@pytest.fixture
def boxes_only():
    return Evaluation(3, 4, 1000, boxes=recall(0), masks=None, boundary=None)


def text(table):
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_table_has_the_layout_of_the_paper(evaluation, boxes_only):
    lines = text(results_table({"ours": evaluation, "peer": boxes_only})).splitlines()
    # boxes: found at ranks 1 (IoU 1) and 51 (.7: 5 of 10 thresholds); masks: 40 later
    auc = f"{100 * evaluation.masks.auc():.1f}"
    ours = [
        "ours",
        "25.0",
        "37.5",
        "37.5",
        "0.0",
        "37.5",
        "37.5",
        auc,
        "100.0",
        "16.7",
        "-",
        "62.5",
    ]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert rows == [ours, ["peer", "25.0", "37.5", "37.5", *["-"] * 8]]
    header = " ".join(" ".join(lines[:3]).replace("┃", " ").split())
    assert header.index("box") < header.index("segment") < header.index("boundary")
    assert header.endswith("method AR@10 @100 @1000 AR@10 @100 @1000 AUC S M L IoU")


def test_json_holds_every_number(evaluation, boxes_only):
    document = json.loads(json.dumps(to_json("ours", evaluation, {"seed": 3}), allow_nan=False))
    assert document["method"] == "ours"
    assert document["settings"] == {"seed": 3}
    assert (document["images"], document["objects"], document["proposals"]) == (3, 4, 1000)
    assert document["boundary"] == {"boundary_iou": 0.625, "mask_iou": 0.75, "matched": 2}
    masks = document["masks"]
    assert masks["AR@100"] == evaluation.masks.average_recall(100)
    assert masks["AR_L"] == -1
    assert masks["objects"] == {"all": 4, "small": 1, "medium": 3, "large": 0}
    assert masks["recall"]["iou_thresholds"] == [round(t, 2) for t in IOU_THRESHOLDS]
    at_counts = evaluation.boxes.recall[:, :, [0, 9, 99, 999]]
    assert np.array_equal(document["boxes"]["recall"]["values"], at_counts)
    curve = dict(
        zip(masks["average_recall"]["counts"], masks["average_recall"]["all"], strict=True)
    )
    assert {count: curve[count] for count in (1, 10, 100, 1000)} == {
        count: masks[f"AR@{count}"] for count in (1, 10, 100, 1000)
    }
    bare = to_json("peer", boxes_only, {})
    assert bare["masks"] is bare["boundary"] is None


def test_plots_show_the_recalls(evaluation, boxes_only):
    by_iou = plot_recall_by_iou("ours", evaluation).axes
    assert [axes.get_title() for axes in by_iou] == ["boxes", "masks"]
    lines = by_iou[1].lines
    assert np.array_equal(lines[2].get_ydata(), 100 * evaluation.masks.recall[:, 0, 99])
    by_proposals = plot_recall_by_proposals("ours", evaluation).axes
    assert by_proposals[0].get_xscale() == "log"
    assert len(by_proposals[1].lines) == 3  # no large object, no line
    assert np.array_equal(by_proposals[1].lines[0].get_ydata(), 100 * evaluation.masks.curve())
    assert len(plot_recall_by_iou("peer", boxes_only).axes) == 1


def test_report_is_written(tmp_path, evaluation):
    paths = write_report(tmp_path / "new" / "folder", "ours", evaluation, {})
    names = ["evaluation.json", "recall_by_iou.png", "recall_by_proposals.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in paths[0].parent.iterdir()) == names
    assert json.loads(paths[0].read_text())["method"] == "ours"
    for path in paths[1:]:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 300


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, evaluation):
    write_report(tmp_path, "old", evaluation, {})
    with pytest.raises(TypeError):
        write_report(tmp_path, "new", evaluation, {"not JSON": object()})
    assert json.loads((tmp_path / "evaluation.json").read_text())["method"] == "old"


def test_report_without_objects(tmp_path):
    nothing = AverageRecall().summarize()
    paths = write_report(tmp_path, "ours", Evaluation(0, 0, 0, nothing, nothing, None), {})
    assert json.loads(paths[0].read_text())["boxes"]["AUC"] == pytest.approx(-1)
