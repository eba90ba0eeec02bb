"""Class-agnostic object segment proposals: DeepMask and SharpMask."""

from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.weights import WeightsError, load
from sharpmask.proposals import Proposals

__all__ = [
    "DeepMask",
    "ImageError",
    "Proposals",
    "Proposer",
    "SharpMask",
    "WeightsError",
    "load",
]
