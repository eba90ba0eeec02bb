"""Options of the commands that run a model: ``propose``, ``detect``, ``evaluate`` and others."""

from typing import Annotated

import typer

from sharpmask.engines.load import EngineName

Weights = Annotated[
    str, typer.Option(help="Model: a name, a file, a folder, or a Hugging Face repository.")
]
NumProposals = Annotated[int, typer.Option(help="Maximum number of proposals per photo.")]
Scales = Annotated[
    str,
    typer.Option(
        help="Sizes at which a photo is read: default, the model's own; zoom or zoom2 (slower, "
        "find smaller objects); fast (of the default model only); or powers of two, "
        "--scales=-1,0,1 for half, once and twice --image-size."
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
        help="Rank a mask behind all others if its IoU (overlap, 0 to 1) with a better one exceeds "
        "this."
    ),
]
Clean = Annotated[
    bool, typer.Option(help="Reduce each mask to its largest piece, with holes filled.")
]
EngineChoice = Annotated[
    EngineName,
    typer.Option(help="What runs the model; auto: the fastest installed (docs/export.md)."),
]
Device = Annotated[
    str, typer.Option(help="Where the model runs: auto, cpu or cuda (an NVIDIA GPU).")
]
