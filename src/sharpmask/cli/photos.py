"""What ``propose`` and ``detect`` share: options, photos, settings, and the last line."""

import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from sharpmask.cli.console import complain, duration, err, out, print_file, progress, refuse_options
from sharpmask.decoding import read_stream
from sharpmask.defaults import VERSION
from sharpmask.engines.protocol import Engine
from sharpmask.images import list_images, write_image
from sharpmask.inference.batch import Outcome, Progress, find_photos, number_photos, unshown
from sharpmask.inference.journal import Photo
from sharpmask.models.sources import resolve
from sharpmask.writers.formats import PLACES
from sharpmask.writers.writer import Writer

STDIN = Path("-")

Images = Annotated[
    list[Path],
    typer.Argument(
        help="Photos, or folders of photos (not of folders); - reads one photo from standard input."
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        help="COCO annotation file that holds the photos by file name; results take their image "
        "ids from it. Default: 1, 2, 3 and so on."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write the results to standard output, and no files.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Report problems only.")]


@dataclass(frozen=True)
class Results:
    """Where a command writes, and what it says.

    Attributes:
        file: COCO results; other files lie beside it.
        as_json: Copy the file to standard output; its folder is a temporary one.
        quiet: Report problems only.
        start: When the command started, in seconds.
    """

    file: Path
    as_json: bool
    quiet: bool
    start: float = field(default_factory=time.monotonic)

    @classmethod
    @contextmanager
    def of(
        cls, context: typer.Context, file: Path, unused: Sequence[str], as_json: bool, quiet: bool
    ) -> Iterator["Results"]:
        """The results of a command.

        Args:
            context: The command's.
            file: COCO results.
            unused: Options that have no effect with ``as_json``.
            as_json: Write to standard output instead.
            quiet: Report problems only.
        """
        if as_json:
            refuse_options(context, unused, "with --json")
        with TemporaryDirectory() if as_json else nullcontext(file.parent) as folder:
            yield cls(Path(folder) / file.name, as_json, quiet)

    def photos(self, images: Sequence[Path], annotations: Path | None) -> tuple[int, list[Photo]]:
        """How many photos were given, and those that have ids, by name or from annotations.

        Raises:
            ValueError: An address or a pattern was given, or standard input with other photos.
        """
        if STDIN in images:
            return 1, [self._from_stdin(images)]
        for path in images:
            _refuse_addresses(path)
        paths = list_images(images, complain)
        found = find_photos(paths, annotations, complain) if annotations else number_photos(paths)
        return len(paths), found

    @property
    def progress(self) -> Progress:
        """Shows how many photos are done."""
        return unshown if self.quiet else progress

    def conclude(self, outcome: Outcome, given: int, writers: Sequence[Writer] = ()) -> None:
        """Say in one line what was done, what failed, how long it took, and where it is.

        Args:
            outcome: Of the photos that were worked on.
            given: How many photos the user gave.
            writers: Further formats that were written.

        Raises:
            typer.Exit: Status 1 if something is missing, 2 if the only photo could not be read.
        """
        if not outcome.done and given == 1:
            raise typer.Exit(2)
        if self.as_json and outcome.done:
            print_file(self.file)
        left_out, failed = given - outcome.photos, outcome.photos - outcome.done
        line = f"{outcome.records} {self.file.stem} for {outcome.done} of {given} photos"
        if left_out:
            line += f", {left_out} left out"
        if failed:
            line += f", {failed} could not be read"
        if outcome.undrawn:
            line += f", {outcome.undrawn} pictures could not be written"
        line += f", {duration(time.monotonic() - self.start)}"
        if outcome.done and not self.as_json:
            line += f": {', '.join([str(self.file), *(each.place.name for each in writers)])}"
        if not self.quiet:
            (err if self.as_json else out).print(line, markup=False)
        written = {each.place.name for each in writers}
        older = [
            name
            for name in PLACES
            if name not in written and not self.as_json and (self.file.parent / name).exists()
        ]
        if older:
            complain(
                f"{self.file.parent}: not written anew, as --format did not ask for it, and so "
                f"perhaps of other photos or settings: {', '.join(older)}"
            )
        if left_out or failed or outcome.undrawn:
            raise typer.Exit(1)

    def _from_stdin(self, images: Sequence[Path]) -> Photo:
        """A photo from standard input, kept beside the results, which name it."""
        if len(images) > 1:
            raise ValueError("-: standard input holds one photo; leave the others out")
        if sys.stdin.isatty():
            raise ValueError("-: standard input is a terminal; pipe a photo into the command")
        pixels = read_stream(io.BytesIO(sys.stdin.buffer.read()), "standard input")
        path = self.file.with_name("stdin.png")
        write_image(path, pixels)
        return Photo(path, 1, "-" if self.as_json else "")


def _refuse_addresses(path: Path) -> None:
    if path.exists():
        return
    if re.match(r"\w{2,}:/", str(path)):
        address = re.sub(":/+", "://", str(path), count=1)
        raise ValueError(
            f"{address}: is an address; fetch the photo first, or pipe it: "
            f"curl -L {address} | sharpmask ... -"
        )
    if re.search(r"[*?]", path.name):
        raise ValueError(
            f"{path}: is a pattern that fits no file; write it without quotes for the shell to "
            "fill in, or name the folder"
        )


def settings_of(context: typer.Context, engine: Engine, *sources: str) -> dict[str, Any]:
    """Collect what the results depend on besides the photos: options, engine and model files.

    The engine is the one that was chosen: "auto" may be another one next time.
    """
    options = {
        key: value for key, value in context.params.items() if key not in ("images", "quiet")
    }
    options["engine"] = engine.name
    for source in sources:
        path = Path(source) if Path(source).is_dir() else resolve(source)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        options[f"files of {source}"] = states
    return options | {"version": VERSION}
