"""Options of the commands that run a model: ``propose``, ``detect``, ``evaluate`` and others."""

from typing import Annotated

import typer

from sharpmask.engines.load import EngineName

Weights = Annotated[
    str,
    typer.Option(
        help="Model: the name of a shipped one (docs/models.md lists them), a file, the folder of "
        "a training, or a Hugging Face repository."
    ),
]
NumProposals = Annotated[
    int, typer.Option(help="Maximum number of masks that are made for a photo.")
]
Scales = Annotated[
    str,
    typer.Option(
        help="Sizes at which a photo is read: default, the model's own; fast (smaller ones, of the "
        "default model only); zoom, slower, finds small objects; zoom2, slower still, smaller "
        "ones; or exponents of two: with --scales=-1,0,1 a photo of 640 pixels or more is read at "
        "320, 640 and 1280 pixels on the longer side."
    ),
]
MaskThreshold = Annotated[
    float | None,
    typer.Option(
        help="Probability (0 to 1) above which a pixel belongs to the object. Default: the model's "
        "own."
    ),
]
Suppression = Annotated[
    float,
    typer.Option(
        help="Put a mask behind all others if its IoU (overlap, 0 to 1) with one of higher score "
        "exceeds this: near repeats come last. None is removed; --distinct does that."
    ),
]
Clean = Annotated[
    bool, typer.Option(help="Reduce each mask to its largest piece, with holes filled.")
]
EngineChoice = Annotated[
    EngineName,
    typer.Option(help="Library that runs the model; auto: the fastest that is installed."),
]
Device = Annotated[
    str, typer.Option(help="Where the model runs: auto, cpu or cuda (an NVIDIA GPU).")
]
