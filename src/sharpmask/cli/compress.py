"""``sharpmask compress``: the same proposals with less arithmetic."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, complain, out, progress
from sharpmask.compress.vectors import shorten_vector
from sharpmask.images import list_images, read_images
from sharpmask.models.pretrained import load, save

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def compress(
    weights: Annotated[
        str, typer.Argument(help="Model: a name, a file, a folder, or a Hugging Face repository.")
    ],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    images: Annotated[
        Path, typer.Option(help="Folder of photos of the kind that the model is for.")
    ],
    vector: Annotated[
        int, typer.Option(help="How many numbers describe a window; fewer are faster.")
    ] = 64,
    first: Annotated[int, typer.Option(min=1, help="Maximum number of photos to read.")] = 100,
) -> None:
    """Make a model of the papers' form faster: fewer numbers describe a window.

    The default model has another form. Check with evaluate what is still found.
    Needs sharpmask[train].
    """
    with clear_errors():
        model = load(weights)
        paths = list_images([images])[:first]
        shown = progress(paths, len(paths))
        problems: list[str] = []
        compressed, kept = shorten_vector(model, read_images(shown, problems.append), vector)
        count = len(paths) - len(problems)
        metadata = model.metadata | {
            "compression": {"vector": vector, "photos": count, "variance_kept": kept}
        }
        save(compressed, output, metadata=metadata)
        for problem in problems:
            complain(problem)
        out.print(
            f"{output}: keeps {100 * kept:.1f} % of the variance over {count} photos", markup=False
        )
