"""The command ``sharpmask``."""

import typer

from sharpmask.cli import convert, evaluate, propose, train

app = typer.Typer(
    help="Class-agnostic object segment proposals: DeepMask and SharpMask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("propose")(propose.propose)
app.command("convert")(convert.convert)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(train.app, name="train")
