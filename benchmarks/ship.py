"""Make what ships beside the weights: the default model exported to ONNX, and SHA256SUMS.

Run it whenever src/sharpmask/weights/NAME.safetensors has changed; release.py does so at its end.

    python benchmarks/ship.py
"""

import hashlib
from pathlib import Path

from sharpmask.defaults import MODEL
from sharpmask.engines.export import export
from sharpmask.models.pretrained import load

WEIGHTS = Path(__file__).parents[1] / "src" / "sharpmask" / "weights"


def ship() -> None:
    """Export the default model, and hash all weights.

    A detector that belongs to it must be trained again when its weights change (detection.py,
    ship_detector.py).
    """
    export(load(WEIGHTS / f"{MODEL}.safetensors"), WEIGHTS / MODEL, "onnx")
    write_sums()


def write_sums() -> None:
    """Hash all weights."""
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(WEIGHTS.glob("*.safetensors"))
    ]
    (WEIGHTS / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    ship()
