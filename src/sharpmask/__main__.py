"""``python -m sharpmask``: the command ``sharpmask``."""

from sharpmask.cli.main import app

if __name__ == "__main__":
    app(prog_name="sharpmask")
