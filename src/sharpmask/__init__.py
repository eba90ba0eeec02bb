"""Class-agnostic object segment proposals: DeepMask and SharpMask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpmask.defaults import VERSION
from sharpmask.extras import extras_for
from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import TiledProposer
from sharpmask.models.sources import WeightsError
from sharpmask.proposals import Proposal, Proposals

if TYPE_CHECKING:
    from sharpmask.detection.detector import Detector
    from sharpmask.detection.training import train_detector
    from sharpmask.engines.load import load_engine
    from sharpmask.evaluation.run import evaluate
    from sharpmask.models.deepmask import DeepMask
    from sharpmask.models.pretrained import load
    from sharpmask.models.pyramid import SharpMaskPyramid
    from sharpmask.models.sharpmask import SharpMask
    from sharpmask.training.finetune import finetune
    from sharpmask.training.pyramid_stage import train_pyramid
    from sharpmask.training.stages import train_deepmask, train_sharpmask

__version__ = VERSION

__all__ = [
    "DeepMask",
    "Detector",
    "ImageError",
    "Proposal",
    "Proposals",
    "Proposer",
    "SharpMask",
    "SharpMaskPyramid",
    "TiledProposer",
    "WeightsError",
    "evaluate",
    "finetune",
    "load",
    "load_engine",
    "train_deepmask",
    "train_detector",
    "train_pyramid",
    "train_sharpmask",
]

# What trains, and models as torch's modules; torch takes more than a second to import.
_LAZY = {
    "DeepMask": "sharpmask.models.deepmask",
    "Detector": "sharpmask.detection.detector",
    "SharpMask": "sharpmask.models.sharpmask",
    "SharpMaskPyramid": "sharpmask.models.pyramid",
    "evaluate": "sharpmask.evaluation.run",
    "finetune": "sharpmask.training.finetune",
    "load": "sharpmask.models.pretrained",
    "load_engine": "sharpmask.engines.load",
    "train_deepmask": "sharpmask.training.stages",
    "train_detector": "sharpmask.detection.training",
    "train_pyramid": "sharpmask.training.pyramid_stage",
    "train_sharpmask": "sharpmask.training.stages",
}
_GONE = {"load_classifier": "Detector.load"}
"""Names of version 0.1 and what takes their place."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        with extras_for(f"sharpmask.{name}"):
            return getattr(import_module(_LAZY[name]), name)
    if name in _GONE:
        raise AttributeError(f"sharpmask.{name} is gone: use sharpmask.{_GONE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
