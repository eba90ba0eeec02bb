"""What ``propose`` and ``detect`` offer alike: which masks to keep, and in which formats."""

from typing import Annotated

import typer

from sharpmask.writers.formats import FORMATS

CHOICE = "Which masks to keep"

Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help=f"Write another format beside the results: {', '.join(FORMATS)} (docs/formats.md); "
        "may be given several times. coco is a complete annotation file.",
        autocompletion=lambda: list(FORMATS),
    ),
]
Polygons = Annotated[
    bool,
    typer.Option(
        "--polygons", help="In coco, labelme and labelstudio write polygons instead of masks."
    ),
]
MinArea = Annotated[
    str,
    typer.Option(
        help="Leave out smaller masks: pixels, or a share of the photo as 1%.",
        rich_help_panel=CHOICE,
    ),
]
MaxArea = Annotated[
    str,
    typer.Option(
        help="Leave out larger masks: pixels, or a share of the photo as 50%.",
        rich_help_panel=CHOICE,
    ),
]
Distinct = Annotated[
    float,
    typer.Option(
        help="Leave out masks whose IoU (overlap, 0 to 1) with one of higher score exceeds this; 1 "
        "keeps all.",
        rich_help_panel=CHOICE,
    ),
]
Parts = Annotated[
    bool,
    typer.Option(
        help="Keep masks of parts, or with --no-parts leave out those that lie by more than 90% in "
        "a larger one.",
        rich_help_panel=CHOICE,
    ),
]
NoOverlap = Annotated[
    bool,
    typer.Option(
        "--no-overlap",
        help="Masks do not overlap: each pixel goes to the best mask that holds it.",
        rich_help_panel=CHOICE,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of masks that are kept, the best, after the choices above. Default: "
        "all.",
        rich_help_panel=CHOICE,
    ),
]
