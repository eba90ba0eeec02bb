"""The pictures of the docs: the best masks on the bundled photo, and what goes wrong on others.

python docs/pictures.py coins.png chelsea.png astronaut.png     # those of scikit-image 0.26
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import sharpmask
from sharpmask.images import read_image

DOCS = Path(__file__).parent
HEIGHT = 300


def main() -> None:
    """Write ``overlay.jpg`` and ``failures.jpg``."""
    proposer = sharpmask.Proposer()
    coffee = DOCS.parent / "src" / "sharpmask" / "assets" / "coffee.jpg"
    save(proposer(coffee).plot(), "overlay.jpg")
    row = []
    for path in sys.argv[1:]:
        picture = Image.fromarray(proposer(read_image(path)).plot())
        size = round(picture.width * HEIGHT / picture.height), HEIGHT
        row.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    if row:
        save(np.concatenate(row, axis=1), "failures.jpg")


def save(pixels: np.ndarray, name: str) -> None:
    """Write a picture of the docs."""
    Image.fromarray(pixels).save(DOCS / name, quality=80)


if __name__ == "__main__":
    main()
