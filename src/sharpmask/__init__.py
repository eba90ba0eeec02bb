"""Class-agnostic object segment proposals: DeepMask and SharpMask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import TiledProposer
from sharpmask.models.sources import WeightsError
from sharpmask.proposals import Proposals

if TYPE_CHECKING:
    from sharpmask.detection.detector import Detector
    from sharpmask.detection.files import load_classifier
    from sharpmask.engines.load import load_engine
    from sharpmask.models.deepmask import DeepMask
    from sharpmask.models.pretrained import load
    from sharpmask.models.sharpmask import SharpMask

__all__ = [
    "DeepMask",
    "Detector",
    "ImageError",
    "Proposals",
    "Proposer",
    "SharpMask",
    "TiledProposer",
    "WeightsError",
    "load",
    "load_classifier",
    "load_engine",
]

# Torch takes more than a second to import and is not needed where another engine runs the model.
_LAZY = {
    "DeepMask": "sharpmask.models.deepmask",
    "SharpMask": "sharpmask.models.sharpmask",
    "Detector": "sharpmask.detection.detector",
    "load": "sharpmask.models.pretrained",
    "load_classifier": "sharpmask.detection.files",
    "load_engine": "sharpmask.engines.load",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
