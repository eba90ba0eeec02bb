"""Loss against steps of every row that the papers' comparisons train: ``docs/claims.png``.

    python benchmarks/claims_curves.py runs/claims

The folder is the ``--runs`` of ``paper_claims.py``. A line is the mean of ten entries of
``metrics.jsonl``, as each tells the loss of one step.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from paper_claims import ROWS, run_folder

TERMS = {"mask_loss": "mask loss", "score_loss": "score loss"}
SMOOTHED = 10
PICTURE = Path(__file__).parents[1] / "docs" / "claims.png"


def main() -> None:
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(TERMS))
    for row in ROWS:
        metrics = run_folder(row, Path(sys.argv[1])) / "metrics.jsonl"
        if not (row.trained and metrics.exists()):
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
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
