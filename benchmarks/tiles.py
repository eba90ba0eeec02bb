"""Memory of proposals in a picture of 20000 x 20000 pixels, read in tiles.

The bundled photo, repeated; mapped from a file, so that the picture itself is no memory of the
process. By default an engine that answers at once, with discs anywhere, takes the network's place:
what is measured is all memory but the model's. With --model the shipped model runs, for about half
an hour.

    python benchmarks/tiles.py [--side 20000] [--model]
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

import sharpmask
from machine import store
from sharpmask import defaults
from sharpmask.geometry import PatchGeometry
from sharpmask.images import read_image
from sharpmask.inference.tiles import Tile
from sharpmask.pyramid_geometry import Geometry

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--model", action="store_true")
    arguments = parser.parse_args()
    side = arguments.side
    engine = sharpmask.load_engine(defaults.MODEL) if arguments.model else Discs()
    proposer = sharpmask.Proposer(engine)
    proposer(COFFEE)
    model = anonymous_bytes()
    counts: list[int] = []
    peaks = [model]
    done = threading.Event()

    def counted(tiles: Sequence[Tile], *_: object) -> Iterable[Tile]:
        counts.append(len(tiles))
        return track(tiles, f"level {len(counts)}")

    def watch() -> None:
        while not done.wait(0.05):
            peaks.append(anonymous_bytes())

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.npy"
        picture = np.lib.format.open_memmap(file, "w+", np.uint8, (side, side, 3))
        fill(picture, read_image(COFFEE))
        picture.flush()
        mapped = np.load(file, mmap_mode="r")
        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        found = sharpmask.TiledProposer(proposer, progress=counted)(mapped)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    store(
        "tiles",
        {
            "side": side,
            "engine": engine.name,
            "tiles": counts,
            "s": seconds,
            "s_per_tile": seconds / sum(counts),
            "proposals": len(found),
            "memory_after_one_photo_gb": model / 1e9,
            "peak_gb": max(peaks) / 1e9,
        },
    )


WINDOWS = PatchGeometry()


class Discs:
    """An engine that sees a disc wherever the dice say so."""

    name = "discs"
    geometry: Geometry = WINDOWS

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        y, x = np.mgrid[:160, :160] - 79.5
        self.disc = (5 - np.hypot(y, x) / 9).astype(np.float32)

    def encode(self, image: np.ndarray) -> tuple[tuple[np.ndarray], None]:
        """Scores of all cells."""
        rows, columns = (WINDOWS.num_cells(side) for side in image.shape[:2])
        return (self.rng.normal(size=(rows, columns)).astype(np.float32),), None

    def decode(self, features: None, cells: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Discs."""
        return np.repeat(self.disc[None], len(cells), axis=0)


def fill(picture: np.ndarray, photo: np.ndarray) -> None:
    """Repeat the photo."""
    height, width = photo.shape[:2]
    for top in range(0, len(picture), height):
        strip = picture[top : top + height]
        for left in range(0, picture.shape[1], width):
            part = strip[:, left : left + width]
            part[:] = photo[: part.shape[0], : part.shape[1]]


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no RssAnon")


if __name__ == "__main__":
    main()
