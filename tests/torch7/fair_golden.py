"""Records a small part of FAIR's own answers: ``python tests/torch7/fair_golden.py FOLDER``.

FOLDER holds what FAIR's Lua classes computed for a small model with random weights. Kept are the
weights that make scores, a sixteenth of both mask linears, and two refinement modules, with what
goes in and comes out of each.
"""

import sys
from pathlib import Path

import numpy as np

from sharpmask.torch7.convert import convert_torch7

GOLDEN = Path(__file__).parents[1] / "golden" / "fair.npz"
EVERY = 16
"""Of the outputs of the mask linears each of these is kept."""
ARCHITECTURE = {
    "model": "sharpmask", "mask_channels": 16, "skip_channels": 16,
    "lateral_channels": [8, 8, 8, 4], "upsampling": "nearest",
    "deepmask": {
        "model": "deepmask", "backbone": "resnet50", "width": 4, "bottleneck_channels": 8,
        "vector": 16, "score_channels": 32, "padding": "symmetric",
    },
}  # fmt: skip
SCORES = ("deepmask.backbone.", "deepmask.bottleneck.", "deepmask.head.")
MODULES = tuple(f"refinement.{k}.{path}." for k in (0, 1) for path in ("mask", "vertical"))
LINEARS = ("mask_encoding.", "deepmask.mask_head.")


def record(folder: Path) -> None:
    state = convert_torch7(folder / "sharpmask" / "model.t7").state_dict()
    patch = np.load(folder / "golden_patch.npz")
    image = np.load(folder / "golden_image_sharpmask.npz")
    arrays = {}
    for key, value in state.items():
        if key.startswith((*SCORES, *MODULES)):
            arrays[key] = value.numpy()
        elif key.startswith(LINEARS):
            arrays[key] = value.numpy()[::EVERY]
    arrays["vectors"] = patch["trunk"]
    arrays["encoding"] = patch["ref0"].reshape(1, -1)[:, ::EVERY]
    arrays["mask"] = patch["mask56"].reshape(2, -1)[:, ::EVERY]
    for name in ("ref0", "neth1", "neth2"):
        arrays[name] = patch[name]
    for name in ("ref1", "ref2"):  # enlarged to twice the size by repetition
        arrays[name] = patch[name][..., ::2, ::2]
    arrays["scaled"] = image["pyramid_s1"]
    for number in range(1, 8):
        arrays[f"logits{number}"] = image[f"logits_s{number}"]
    best = np.load(folder / "golden_topscores.npz")["topScores_np250"]
    arrays["best"] = best[:, 1:].astype(np.int16)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
