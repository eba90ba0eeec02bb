"""Less arithmetic for the same proposals: a shorter vector for each cell of a trained model."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from sharpmask.inference.proposer import Proposer
from sharpmask.models.deepmask import HeadC
from sharpmask.models.pretrained import Model, build
from sharpmask.models.sharpmask import SharpMask
from sharpmask.shapes import Float, UInt8

READERS = ("head.score_head.1", "mask_head", "mask_encoding")
"""Linear layers that read the vector."""
BEST_CELLS = 500
"""Best cells of a photo; masks are decoded from such, so they weigh as much as all cells."""


# Deviation: short-vector
@torch.no_grad()
def shorten_vector(
    model: Model, photos: Iterable[UInt8[np.ndarray, "_ _ 3"]], length: int
) -> tuple[Model, float]:
    """A model with a shorter vector for each cell: its principal components on photos.

    With a small trunk, much of the dense pass goes into making and reading the vectors of all
    cells. On photos the vectors lie close to a plane of few dimensions. The layers that read them
    are linear, so the change of coordinates is folded into the layers before and after.

    Args:
        model: A trained model with head C.
        photos: Some tens of photos of the kind it is meant for, RGB.
        length: Dimensions kept.

    Returns:
        The new model, and the share of the variance that it keeps.

    Raises:
        ValueError: Another head, a length out of range, or no photos.
    """
    deepmask = model.deepmask if isinstance(model, SharpMask) else model
    if type(deepmask.head) is not HeadC:
        raise ValueError(
            "model: expected a DeepMask or SharpMask with head c; others stay as they are"
        )
    if not 0 < length < deepmask.vector:
        raise ValueError(f"vector: expected 1 to {deepmask.vector - 1}, got {length}")
    mean, covariance = vector_statistics(model, photos, deepmask.vector)
    variances, axes = torch.linalg.eigh(covariance)  # ascending
    plane = axes[:, -length:]

    state = {key: value.double() for key, value in model.state_dict().items()}
    for key in [key for key in state if key.endswith(".weight")]:
        name = key.removesuffix(".weight")
        weight, bias = state[key], f"{name}.bias"
        if name.endswith("head.joint"):  # makes the vector
            state[key] = torch.einsum("vn,vchw->nchw", plane, weight)
            state[bias] = plane.T @ (state[bias] - mean)
        elif name.endswith(READERS):
            state[bias] = state[bias] + weight.flatten(1) @ mean
            state[key] = torch.einsum("ov...,vn->on...", weight, plane)
    shorter = dict(model.architecture)
    if isinstance(model, SharpMask):
        shorter["deepmask"] = {**shorter["deepmask"], "vector": length}
    else:
        shorter["vector"] = length
    new = build(shorter)
    new.load_state_dict({key: value.float() for key, value in state.items()})
    return new.eval(), float(variances[-length:].sum() / variances.sum())


def vector_statistics(
    model: Model, photos: Iterable[UInt8[np.ndarray, "_ _ 3"]], vector: int
) -> tuple[Float[Tensor, " v"], Float[Tensor, "v v"]]:
    """Mean and covariance of cells' vectors; all cells and the best ones weigh half each."""
    proposer = Proposer(model, device="cpu")
    counts = np.zeros(2)
    sums = torch.zeros(2, vector, dtype=torch.float64)
    products = torch.zeros(2, vector, vector, dtype=torch.float64)
    for photo in photos:
        levels = list(proposer.levels(photo))
        vectors = torch.cat([level.features.masks[0][0].flatten(1).T for level in levels]).double()
        scores = torch.cat([torch.from_numpy(level.scores).flatten() for level in levels])
        best = vectors[scores.topk(min(BEST_CELLS, len(scores))).indices]
        for kind, chosen in enumerate((vectors, best)):
            counts[kind] += len(chosen)
            sums[kind] += chosen.sum(0)
            products[kind] += chosen.T @ chosen
    if not counts.all():
        raise ValueError("photos: at least one is needed, got none")
    weights = torch.from_numpy(0.5 / counts)
    mean = weights @ sums
    return mean, torch.einsum("k,kvw->vw", weights, products) - torch.outer(mean, mean)
