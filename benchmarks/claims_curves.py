"""The papers' comparisons as pictures: ``docs/claims.png`` and ``docs/claims-recall.png``.

    python benchmarks/claims_curves.py runs/claims

The folder is the ``--runs`` of ``paper_claims.py``. The first picture shows the losses of each row
against steps; a line is the mean of ten entries of ``metrics.jsonl``, as each tells the loss of one
step. The second shows recall against proposals and against time, as ``paper_claims.py`` stored
them.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from machine import RESULTS
from paper_claims import FORMS, ROWS, run_folder

TERMS = {"mask_loss": "mask loss", "score_loss": "score loss"}
SMOOTHED = 10
COUNTS = (1, 10, 100, 1000)
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    draw_losses(Path(sys.argv[1]))
    draw_recall()


def draw_losses(runs: Path) -> None:
    """Losses of the papers' forms against steps."""
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(TERMS))
    for row in ROWS:
        metrics = run_folder(row, runs) / "metrics.jsonl"
        if not (row.trained and row.name != FORMS[-1] and metrics.exists()):
            continue
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        for axes, term in zip(panels, TERMS, strict=True):
            points = np.array([(line["step"], line[term]) for line in lines if term in line])
            if len(points) >= SMOOTHED:
                mean = np.ones(SMOOTHED) / SMOOTHED
                steps, losses = (np.convolve(column, mean, "valid") for column in points.T)
                axes.plot(steps, losses, label=row.name, linewidth=1.2)
    for axes, title in zip(panels, TERMS.values(), strict=True):
        axes.set(xlabel="step of the stage", ylabel=title, yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(DOCS / "claims.png")


def draw_recall() -> None:
    """Mask AR of the forms against the number of proposals, and against the time of a photo."""
    rows = json.loads((RESULTS / "paper_claims.json").read_text())["rows"]
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    by_count, by_time = figure.subplots(1, 2)
    for name in FORMS:
        recall = [100 * rows[name]["mask_AR"][f"AR@{count}"] for count in COUNTS]
        by_count.semilogx(COUNTS, recall, "o-", label=name.partition(", ")[2])
        by_time.plot(rows[name]["relative_time"], recall[2], "o", label=name.partition(", ")[2])
    by_count.set(xlabel="proposals", ylabel="mask AR x 100")
    by_time.set(xlabel="time / that of VGG-A, original head", ylabel="mask AR@100 x 100")
    by_time.set_xlim(left=0)
    for axes in (by_count, by_time):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(DOCS / "claims-recall.png")


if __name__ == "__main__":
    main()
