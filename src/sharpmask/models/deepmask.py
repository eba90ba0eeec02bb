"""DeepMask: a patch becomes a coarse mask and a score (SharpMask, section 4; DeepMask, section 3).

One code path serves a single patch and a whole image: an image is read once, scores come out for
every cell, and masks are decoded for the cells one asks for. A patch is an image with one cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.geometry import DEEPMASK_GEOMETRY, SHARPMASK_GEOMETRY, PatchGeometry
from sharpmask.models.backbones import STRIDES, Backbone, build_backbone
from sharpmask.models.layers import Conv2d, Normalize, Padding, WindowLinear, move_on
from sharpmask.models.window_net import WindowNet
from sharpmask.shapes import Float, Int


@dataclass(frozen=True)
class Features:
    """What one image leaves behind for scores and masks.

    Attributes:
        maps: Backbone maps at strides 2, 4, 8, 16; a window's squares of them lie on each other.
        embedding: The head's map, computed once for all cells.
        laterals: SharpMask's features for its refinement modules, coarse to fine.
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor
    laterals: tuple[Tensor, ...] = ()


class Head(nn.Module):
    """Maps trunk features to one score and one mask vector for each cell."""

    def embed(self, trunk: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e he we"]:
        """The part that both branches share, computed for the whole map."""
        raise NotImplementedError

    def score(self, embedding: Float[Tensor, "b e he we"]) -> Float[Tensor, "b rows columns"]:
        """Objectness logits of all cells."""
        raise NotImplementedError

    def mask_vectors(
        self, embedding: Float[Tensor, "b e he we"], cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n v"]:
        """The vectors from which the masks of chosen cells (image, row, column) are made."""
        raise NotImplementedError


class HeadOriginal(Head):
    """The heads of DeepMask 2015: separate stacks on the backbone's own features."""

    def __init__(
        self, channels: int, geometry: PatchGeometry, vector: int, score_channels: int
    ) -> None:
        super().__init__()
        if geometry.grid % 2:
            raise ValueError(f"head 'original' pools 2x2: a grid of {geometry.grid} is odd")
        self.pooled_grid = geometry.grid // 2
        self.mask_conv = Conv2d(channels, 512, 1)
        self.mask_joint = WindowLinear(512, vector, geometry.grid)
        # The 2x2 max-pool of every patch starts at its own first cell: pool densely, then read
        # every second value.
        self.score_joint = nn.Conv2d(channels, 512, self.pooled_grid, dilation=2)
        self.score_head = nn.Sequential(
            nn.ReLU(), nn.Dropout(0.5), Conv2d(512, score_channels, 1), nn.ReLU(),
            nn.Dropout(0.5), Conv2d(score_channels, 1, 1),
        )  # fmt: skip

    def embed(self, trunk: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Nothing is shared beyond the trunk."""
        return trunk

    def score(self, embedding: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows columns"]:
        """2x2 max-pool, 512, 1024, 1."""
        pooled = F.max_pool2d(embedding, 2, 1)
        return self.score_head(self.score_joint(pooled)).squeeze(1)  # type: ignore[no-any-return]

    def mask_vectors(
        self, embedding: Float[Tensor, "b c h w"], cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n v"]:
        """1x1 convolution, ReLU, low-rank linear."""
        return self.mask_joint.at(F.relu(self.mask_conv(embedding)), cells)


def score_stack(vector: int, channels: int) -> nn.Sequential:
    """Score layers of heads A, B and C on a vector per cell."""
    return nn.Sequential(
        nn.Dropout(0.5),
        Conv2d(vector, channels, 1),
        nn.ReLU(),
        nn.Dropout(0.5),
        Conv2d(channels, 1, 1),
    )


class HeadA(Head):
    """Two separate stacks on the trunk's bottleneck."""

    # Deviation: heads-a-b
    def __init__(
        self, channels: int, geometry: PatchGeometry, vector: int, score_channels: int
    ) -> None:
        super().__init__()
        self.mask_joint = WindowLinear(channels, vector, geometry.grid)
        self.score_joint = WindowLinear(channels, vector, geometry.grid)
        self.score_head = score_stack(vector, score_channels)

    def embed(self, trunk: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Nothing is shared beyond the trunk."""
        return trunk

    def score(self, embedding: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows columns"]:
        """Own large linear, then the score layers."""
        return self.score_head(self.score_joint(embedding)).squeeze(1)  # type: ignore[no-any-return]

    def mask_vectors(
        self, embedding: Float[Tensor, "b c h w"], cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n v"]:
        """Own large linear."""
        return self.mask_joint.at(embedding, cells)


class HeadC(Head):
    """Mask and score from one vector per cell: the head of SharpMask."""

    def __init__(
        self, channels: int, geometry: PatchGeometry, vector: int, score_channels: int
    ) -> None:
        super().__init__()
        self.joint = WindowLinear(channels, vector, geometry.grid)
        self.score_head = score_stack(vector, score_channels)

    def embed(self, trunk: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v rows columns"]:
        """The large linear of every cell."""
        return self.joint(trunk)  # type: ignore[no-any-return]

    def score(
        self, embedding: Float[Tensor, "b v rows columns"]
    ) -> Float[Tensor, "b rows columns"]:
        """The score layers."""
        return self.score_head(embedding).squeeze(1)  # type: ignore[no-any-return]

    def mask_vectors(
        self, embedding: Float[Tensor, "b v rows columns"], cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n v"]:
        """The cells' shared vectors themselves."""
        image, row, column = cells.unbind(1)
        return embedding[image, :, row, column]


class HeadB(HeadC):
    """As head C with one more linear for the mask: a small split after the shared vector."""

    # Deviation: heads-a-b
    def __init__(
        self, channels: int, geometry: PatchGeometry, vector: int, score_channels: int
    ) -> None:
        super().__init__(channels, geometry, vector, score_channels)
        self.mask_split = nn.Linear(vector, vector)

    def mask_vectors(
        self, embedding: Float[Tensor, "b v rows columns"], cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n v"]:
        """The cells' shared vectors through the mask's own linear."""
        return self.mask_split(super().mask_vectors(embedding, cells))  # type: ignore[no-any-return]


HEADS: dict[str, type[Head]] = {"original": HeadOriginal, "a": HeadA, "b": HeadB, "c": HeadC}


class DeepMask(WindowNet):
    """The feed-forward net: trunk, coarse mask head and score head.

    Args:
        backbone: Features at strides 2, 4, 8, 16.
        head: One of ``HEADS``. "original" reads the backbone directly; the others read a
            bottleneck.
        geometry: Patch sizes, and where the backbone's cells are centred; if None, SharpMask's
            sizes and what the backbone says.
        bottleneck_channels: Width of the 1x1 convolution after the backbone (F in the paper).
        vector: Length of the vector that stands for a patch.
        score_channels: Width of the score head.
    """

    kind = "deepmask"

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: str = "c",
        geometry: PatchGeometry | None = None,
        bottleneck_channels: int = 128,
        vector: int = 512,
        score_channels: int = 1024,
    ) -> None:
        super().__init__()
        geometry = geometry or replace(SHARPMASK_GEOMETRY, cell_offset=backbone.cell_offset)
        if head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {head!r}")
        self.architecture = {
            "model": self.kind,
            **backbone.architecture,
            "head": head,
            "bottleneck_channels": bottleneck_channels,
            "vector": vector,
            "score_channels": score_channels,
        }
        if geometry != head_geometry(head):
            self.architecture["geometry"] = asdict(geometry)
        if not backbone.architecture:
            self.architecture = {}
        self.geometry = geometry
        self.vector = vector
        self.normalize = Normalize()
        self.backbone = backbone
        channels = backbone.channels[-1]
        if head == "original":
            self.bottleneck: nn.Module = nn.Identity()
        else:
            self.bottleneck = nn.Sequential(Conv2d(channels, bottleneck_channels, 1), nn.ReLU())
            channels = bottleneck_channels
        self.head = HEADS[head](channels, geometry, vector, score_channels)
        self.mask_head = nn.Linear(vector, geometry.coarse_size**2)

    @classmethod
    def of_options(cls, options: dict[str, Any]) -> "DeepMask":
        """A DeepMask with random weights: what ``build_deepmask`` makes of the options."""
        return build_deepmask(**options)

    def encode(self, images: Tensor) -> Features:
        """Read images (B, 3, H, W), RGB 0..255: everything that does not depend on a cell."""
        return self.embed(self.read(images))

    def encode_patches(self, windows: Tensor) -> Features:
        """Read windows (B, 3, window_size, window_size), each its own image of a single cell.

        The maps are cut to the patch before anything else reads them, as the paper trains; in a
        whole image there is real context beyond a patch instead.
        """
        context = self.geometry.context
        maps = self.read(windows)
        return self.embed(
            tuple(crop(x, context // stride) for x, stride in zip(maps, STRIDES, strict=True))
        )

    def read(self, images: Tensor) -> tuple[Tensor, ...]:
        """The backbone's maps of images (B, 3, H, W), RGB 0..255, moved to lie on each other."""
        maps = self.backbone(self.normalize(images))
        lags = map(self.geometry.lag, STRIDES)
        return tuple(move_on(x, lag) for x, lag in zip(maps, lags, strict=True))

    def embed(self, maps: tuple[Tensor, ...]) -> Features:
        """Trunk and shared part of the head on the backbone's maps."""
        return Features(maps=maps, embedding=self.head.embed(self.bottleneck(maps[-1])))

    def score(self, features: Features) -> Float[Tensor, "b rows columns"]:
        """Objectness logits of all cells."""
        return self.head.score(features.embedding)

    def mask_vectors(self, features: Features, cells: Int[Tensor, "n 3"]) -> Float[Tensor, "n v"]:
        """Vectors of the chosen cells (image, row, column)."""
        return self.head.mask_vectors(features.embedding, cells)

    def decode(
        self, features: Features, cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n coarse coarse"]:
        """Coarse mask logits of the chosen cells (image, row, column)."""
        size = self.geometry.coarse_size
        return self.mask_head(self.mask_vectors(features, cells)).unflatten(1, (size, size))  # type: ignore[no-any-return]


def crop(x: Float[Tensor, "b c h w"], margin: int) -> Float[Tensor, "b c hc wc"]:
    """Take ``margin`` off each side."""
    return x[:, :, margin : x.shape[2] - margin, margin : x.shape[3] - margin]


def head_geometry(head: str) -> PatchGeometry:
    """The patch that a head is published with."""
    return DEEPMASK_GEOMETRY if head == "original" else SHARPMASK_GEOMETRY


def build_deepmask(
    *,
    backbone: str = "mobilenet_v2",
    head: str = "c",
    geometry: Mapping[str, Any] | None = None,
    bottleneck_channels: int = 128,
    vector: int = 512,
    score_channels: int = 1024,
    depths: Sequence[int] | None = None,
    width: int | None = None,
    padding: Padding = "symmetric",
) -> DeepMask:
    """A DeepMask with random weights by the name of its backbone.

    ``build_deepmask(backbone="resnet50")`` is the paper's W160-P4-D39-F128 with head C;
    ``build_deepmask(backbone="vgg11", head="original")`` is DeepMask 2015.

    Args:
        backbone: One of ``BACKBONES``.
        head: As for ``DeepMask``.
        geometry: Fields of a ``PatchGeometry``: ``cell_offset`` is the backbone's if left out; the
            head's own sizes if None.
        bottleneck_channels: As for ``DeepMask``.
        vector: As for ``DeepMask``.
        score_channels: As for ``DeepMask``.
        depths: Blocks of each stage of a ResNet, or convolutions of a VGG; the named net's if None.
        width: Channels of a ResNet's stem, 64 if None.
        padding: Border of the backbone's convolutions: "symmetric" or "zero".

    Raises:
        ValueError: Unknown backbone, head or padding, or an option that the backbone lacks.
    """
    trunk = build_backbone(backbone, depths=depths, width=width, padding=padding)
    offset = trunk.cell_offset
    return DeepMask(
        trunk,
        head=head,
        geometry=PatchGeometry(**{"cell_offset": offset, **geometry})
        if geometry
        else replace(head_geometry(head), cell_offset=offset),
        bottleneck_channels=bottleneck_channels,
        vector=vector,
        score_channels=score_channels,
    )
