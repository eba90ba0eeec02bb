"""``sharpmask page``: the page as a folder for any web host."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, out
from sharpmask.cli.model_options import Weights
from sharpmask.serve.page import build_page

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def page(
    output: Annotated[Path, typer.Option(help="Folder for the page.")],
    weights: Weights = defaults.MODEL,
    runtime: Annotated[
        Path | None,
        typer.Option(help="Archive of onnxruntime-web from npm. Default: it is downloaded."),
    ] = None,
) -> None:
    """Write the page for any web host: masks are computed in the visitor's browser.

    Any web server can show the folder: python -m http.server --directory FOLDER.
    """
    with clear_errors():
        build_page(weights, output, runtime=runtime)
        out.print(f"{output}/index.html", markup=False)
