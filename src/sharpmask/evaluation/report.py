"""What an evaluation writes: a JSON file with all figures, two plots, and a table to print."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from sharpmask.evaluation.average_recall import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_PROPOSALS,
    PROPOSAL_COUNTS,
    RecallSummary,
)
from sharpmask.evaluation.evaluator import Evaluation
from sharpmask.files import replacing_file

if TYPE_CHECKING:  # the extra `plots`
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_COUNTS = np.unique(np.geomspace(1, MAX_PROPOSALS, 91).round().astype(int))
"""Counts of proposals at which the JSON file states the curve of average recall."""

_COLOURS = ("#333333", "#0072b2", "#d55e00", "#009e73")


def write_report(
    folder: Path, method: str, evaluation: Evaluation, settings: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write ``evaluation.json``, ``recall_by_iou.png`` and ``recall_by_proposals.png``.

    Each file appears whole or not at all. The folder is made if missing. The plots need matplotlib
    and are left out where it is not installed.

    Args:
        folder: Where to.
        method: Name of the proposal method, for the plots' titles.
        evaluation: Its figures.
        settings: Whatever makes the run repeatable, as JSON values: files, weights, versions.

    Returns:
        The paths, in the order above.
    """
    document = json.dumps(to_json(method, evaluation, settings), indent=1, allow_nan=False)
    contents = {"evaluation.json": document.encode()}
    if find_spec("matplotlib"):
        contents |= {
            "recall_by_iou.png": _png(plot_recall_by_iou(method, evaluation)),
            "recall_by_proposals.png": _png(plot_recall_by_proposals(method, evaluation)),
        }
    for name, content in contents.items():
        with replacing_file(folder / name) as file:
            file.write(content)
    return tuple(folder / name for name in contents)


def to_json(method: str, evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to JSON values; recalls are fractions, -1 where there are no objects."""
    return {
        "method": method,
        "settings": dict(settings),
        "images": evaluation.images,
        "unseen_images": evaluation.unseen,
        "objects": evaluation.objects,
        "proposals": evaluation.proposals,
        "boxes": _recall_to_json(evaluation.boxes),
        "masks": _recall_to_json(evaluation.masks) if evaluation.masks else None,
        "boundary": asdict(evaluation.boundary) if evaluation.boundary else None,
    }


def results_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Lay the figures of several methods out as the paper does, in percent; "-" where unknown.

    AUC and the recall by object size (S, M, L, at 100 proposals) are those of the masks.
    """
    unseen = [
        f"\n{method}: {evaluation.unseen} of {evaluation.images} images were not looked at; their "
        "objects count as missed"
        for method, evaluation in evaluations.items()
        if evaluation.unseen
    ]
    caption = "AR x 100 over IoU .5:.95; S, M, L: masks @100; boundary: matched masks"
    table = Table(caption=caption + "".join(unseen))
    table.add_column("\nmethod")
    for kind in ("box", "segment"):
        for count in PROPOSAL_COUNTS[1:]:
            first = count == PROPOSAL_COUNTS[1]
            table.add_column(f"{kind}\nAR@{count}" if first else f"\n@{count}", justify="right")
    for header in ("\nAUC", "\nS", "\nM", "\nL", "boundary\nIoU"):
        table.add_column(header, justify="right")
    for method, evaluation in evaluations.items():
        boxes = evaluation.boxes.figures()
        masks = evaluation.masks.figures() if evaluation.masks else {}
        by_count = [f"AR@{count}" for count in PROPOSAL_COUNTS[1:]]
        figures = [boxes[name] for name in by_count]
        figures += [masks.get(name, -1) for name in [*by_count, "AUC", "AR_S", "AR_M", "AR_L"]]
        figures += [evaluation.boundary.boundary_iou if evaluation.boundary else -1]
        table.add_row(method, *(f"{100 * value:.1f}" if value >= 0 else "-" for value in figures))
    return table


def plot_recall_by_iou(method: str, evaluation: Evaluation) -> "Figure":
    """Draw the recall of all objects against the IoU threshold, a line per number of proposals."""
    figure, panels = _panels(method, evaluation)
    for axes, summary in panels:
        for count, colour in zip(PROPOSAL_COUNTS, _COLOURS, strict=True):
            recall = 100 * summary.recall[:, 0, count - 1]
            label = f"@{count}: AR {100 * summary.average_recall(count):.1f}"
            axes.plot(IOU_THRESHOLDS, recall, color=colour, label=label)
        _finish(axes, "IoU threshold", "recall (%)")
    return figure


def plot_recall_by_proposals(method: str, evaluation: Evaluation) -> "Figure":
    """Draw average recall against the number of proposals, a line per range of object size."""
    figure, panels = _panels(method, evaluation)
    for axes, summary in panels:
        counts = np.arange(1, MAX_PROPOSALS + 1)
        for area, objects, colour in zip(AREA_RANGES, summary.objects, _COLOURS, strict=True):
            if objects:
                label = f"{area}: AUC {100 * summary.auc(area):.1f}"
                axes.semilogx(counts, 100 * summary.curve(area), color=colour, label=label)
        axes.set_xticks(PROPOSAL_COUNTS, [str(count) for count in PROPOSAL_COUNTS])
        _finish(axes, "proposals per image", "average recall (%)")
    return figure


def _recall_to_json(summary: RecallSummary) -> dict[str, Any]:
    return {
        **summary.figures(),
        "objects": dict(zip(AREA_RANGES, summary.objects.tolist(), strict=True)),
        "recall": {
            "axes": ["iou_thresholds", "areas", "counts"],
            "iou_thresholds": IOU_THRESHOLDS.round(2).tolist(),
            "areas": list(AREA_RANGES),
            "counts": list(PROPOSAL_COUNTS),
            "values": summary.recall[:, :, np.array(PROPOSAL_COUNTS) - 1].tolist(),
        },
        "average_recall": {
            "counts": CURVE_COUNTS.tolist(),
            **{area: summary.curve(area)[CURVE_COUNTS - 1].tolist() for area in AREA_RANGES},
        },
    }


def _panels(
    method: str, evaluation: Evaluation
) -> tuple["Figure", list[tuple["Axes", RecallSummary]]]:
    """Make a figure with one plot for the boxes and, if scored, one for the masks."""
    from matplotlib.figure import Figure

    summaries = {"boxes": evaluation.boxes, "masks": evaluation.masks}
    scored = {title: summary for title, summary in summaries.items() if summary is not None}
    figure = Figure(figsize=(4.5 * len(scored), 4), dpi=150, layout="constrained")
    figure.suptitle(f"{method}, {evaluation.images} images, {evaluation.objects} objects")
    panels = []
    for column, (title, summary) in enumerate(scored.items()):
        axes = figure.add_subplot(1, len(scored), column + 1)
        axes.set_title(title)
        panels.append((axes, summary))
    return figure, panels


def _finish(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, 100))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
