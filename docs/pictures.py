"""The pictures of the docs.

python docs/pictures.py                                         # those of the bundled photo
python docs/pictures.py coins.png chelsea.png astronaut.png     # failures, scikit-image 0.26's too
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import sharpmask
from sharpmask.drawing import draw_masks
from sharpmask.images import read_image
from sharpmask.selection import Selection

DOCS = Path(__file__).parent
HEIGHT = 300
KEPT = Selection(min_score=0.3, min_area="1%", max_area="30%", parts=False, no_overlap=True)
"""As the tutorial keeps masks."""
POINT, BOX = (240, 150), (320, 220, 410, 330)
"""What the tutorial asks for."""


def main() -> None:
    """Write them."""
    proposer = sharpmask.Proposer()
    photo = proposer.read(DOCS.parent / "src" / "sharpmask" / "assets" / "coffee.jpg")
    found = photo.propose()
    save(found.plot(), "overlay.jpg")
    kept = KEPT(found)
    labels = [f"{score:.2f}" for score in kept.scores]
    save(draw_masks(kept.image, kept.masks(), labels), "tutorial-kept.jpg")
    asked = {"at": photo.at(*POINT)[0], "in_box": photo.in_box(BOX)}
    masks = [proposal.mask for proposal in asked.values()]
    save(draw_masks(found.image, masks, list(asked)), "tutorial-asked.jpg")
    save(
        side_by_side([on_squares(kept.cutout(k)) for k in range(len(kept))]), "tutorial-cutouts.jpg"
    )
    failures = [proposer(read_image(path)).plot() for path in sys.argv[1:]]
    if failures:
        save(side_by_side(failures), "failures.jpg")


def on_squares(cutout: np.ndarray) -> np.ndarray:
    """An object that was cut out, on the squares that stand for transparency."""
    rows, columns = np.indices(cutout.shape[:2]) // 10
    squares = np.where((rows + columns) % 2, 255, 200)[:, :, None]
    opacity = cutout[:, :, 3:] / 255
    return (cutout[:, :, :3] * opacity + squares * (1 - opacity)).astype(np.uint8)


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row."""
    row = []
    for pixels in pictures:
        picture = Image.fromarray(pixels)
        size = round(picture.width * HEIGHT / picture.height), HEIGHT
        row.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    return np.concatenate(row, axis=1)


def save(pixels: np.ndarray, name: str) -> None:
    """Write a picture of the docs."""
    Image.fromarray(pixels).save(DOCS / name, quality=80)


if __name__ == "__main__":
    main()
