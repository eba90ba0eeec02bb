"""SharpMask: a top-down pass of refinement modules on a DeepMask (SharpMask, section 3).

Each module doubles the mask encoding's size while mixing in the bottom-up features of that size:
S = relu(conv(F)), M' = up(relu(conv([S, M]))). Published in two forms of the same function: the
convolution over the concatenation, and the refactored one, where the part that reads S runs once
for the whole image and only the part that reads M runs for each window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpmask.models.backbones import STRIDES
from sharpmask.models.deepmask import DeepMask, Features
from sharpmask.models.layers import Conv2d, gather_windows, linear_weights
from sharpmask.models.window_net import WindowNet
from sharpmask.shapes import Float, Int

Form = Literal["refactored", "concatenated"]
Schedule = Literal["halving", "constant"]
Upsampling = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Widths:
    """Channels of a refinement module.

    Attributes:
        features: Of the bottom-up features F.
        hidden: Of the first lateral convolution; one convolution was hard to train.
        skip: Of the skip features S (k_s).
        mask: Of the mask encoding M that comes in (k_m).
        out: Of the mask encoding that goes out.
    """

    features: int
    hidden: int
    skip: int
    mask: int
    out: int

    def skip_layers(self) -> nn.Sequential:
        """From F to S."""
        return nn.Sequential(
            Conv2d(self.features, self.hidden), nn.ReLU(),
            Conv2d(self.hidden, self.skip), nn.ReLU(),
        )  # fmt: skip

    def mask_layers(self) -> nn.Sequential:
        """M before it is fused with S."""
        return nn.Sequential(Conv2d(self.mask, self.mask), nn.ReLU(inplace=True))


class RefinementModule(nn.Module):
    """One step of the top-down pass: S = relu(conv(F)), M' = relu(conv([S, M])).

    ``lateral`` computes what reads F, once for the whole image; ``forward`` what reads M, for each
    window. Three kinds differ in what stands where: ``Refactored``, ``Concatenated`` and
    ``WithoutLateral``.
    """

    def lateral(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l h w"] | None:
        """What the windows read at this level; None if they read nothing."""
        raise NotImplementedError

    def forward(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n l s s"] | None
    ) -> Float[Tensor, "n o s s"]:
        """The fused encoding of each window, before upsampling."""
        raise NotImplementedError


class Concatenated(RefinementModule):
    """The paper's first form: one convolution over skip features and mask encoding."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.skip = widths.skip_layers()
        self.mask = widths.mask_layers()
        self.fuse = Conv2d(widths.skip + widths.mask, widths.out)

    def lateral(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l h w"]:
        """The skip features S."""
        return self.skip(features)  # type: ignore[no-any-return]

    def forward(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n l s s"] | None
    ) -> Float[Tensor, "n o s s"]:
        """Convolution over [S, M]."""
        assert lateral is not None
        return F.relu(self.fuse(torch.cat([lateral, self.mask(mask)], dim=1)))


class Refactored(RefinementModule):
    """The same function as two convolutions, of S for the image and of M for the window.

    Args:
        widths: Channels.
        vertical: Without it M passes through a single 1x1 convolution (a skip net).
    """

    def __init__(self, widths: Widths, *, vertical: bool) -> None:
        super().__init__()
        self.skip = widths.skip_layers()
        # Deviation: no-vertical
        self.mask = widths.mask_layers() if vertical else nn.Identity()
        self.vertical = Conv2d(widths.mask, widths.out, 3 if vertical else 1)
        self.horizontal = Conv2d(widths.skip, widths.out)

    def lateral(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l h w"]:
        """S through the part of the fusion that reads it."""
        return self.horizontal(self.skip(features))  # type: ignore[no-any-return]

    def forward(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n l s s"] | None
    ) -> Float[Tensor, "n o s s"]:
        """The sum of both parts."""
        assert lateral is not None
        return F.relu(self.vertical(self.mask(mask)).add_(lateral), inplace=True)


class WithoutLateral(RefinementModule):
    """F is not read: a deconvolution net."""

    def __init__(self, widths: Widths, *, vertical: bool) -> None:
        super().__init__()
        self.mask = widths.mask_layers() if vertical else nn.Identity()
        self.vertical = Conv2d(widths.mask, widths.out, 3 if vertical else 1)

    def lateral(self, features: Float[Tensor, "b c h w"]) -> None:
        """Nothing."""

    def forward(
        self,
        mask: Float[Tensor, "n m s s"],
        lateral: Float[Tensor, "n l s s"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "n o s s"]:
        """The part that reads M."""
        return F.relu(self.vertical(self.mask(mask)), inplace=True)


class SharpMask(WindowNet):
    """A DeepMask whose mask head is replaced by a mask encoding and four refinement modules.

    Args:
        deepmask: Stage one. Its trunk and score are used as they are; its coarse mask head stays
            with it.
        mask_channels: k of the mask encoding.
        skip_channels: k of the skip features.
        lateral_channels: Widths of the first lateral convolutions, coarse to fine.
        schedule: "halving" halves both at every module (the paper's choice), "constant" keeps them.
        upsampling: "bilinear" as in the paper, "nearest" as in FAIR's released code.
        form: "refactored" or "concatenated"; the same function, see ``convert_form``.
        lateral: False removes the horizontal path (ablation).
        vertical: False removes the vertical convolutions (ablation).
    """

    kind = "sharpmask"

    def __init__(
        self,
        deepmask: DeepMask,
        *,
        mask_channels: int = 32,
        skip_channels: int = 32,
        lateral_channels: Sequence[int] = (64, 64, 64, 32),
        schedule: Schedule = "halving",
        upsampling: Upsampling = "bilinear",
        form: Form = "refactored",
        lateral: bool = True,
        vertical: bool = True,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("schedule", schedule, ("halving", "constant")),
            ("upsampling", upsampling, ("bilinear", "nearest")),
            ("form", form, ("refactored", "concatenated")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: expected {' or '.join(allowed)}, got {value!r}")
        modules = len(STRIDES)
        if len(lateral_channels) != modules:
            raise ValueError(f"lateral_channels: expected {modules} widths, got {lateral_channels}")
        if min(mask_channels, skip_channels, *lateral_channels) < 1:
            raise ValueError(
                f"mask_channels {mask_channels}, skip_channels {skip_channels} and "
                f"lateral_channels {lateral_channels} must be positive"
            )
        if schedule == "halving" and (
            mask_channels % 2**modules or skip_channels % 2 ** (modules - 1)
        ):
            raise ValueError(
                f"schedule 'halving' divides mask_channels by {2**modules} and skip_channels by "
                f"{2 ** (modules - 1)}: got {mask_channels} and {skip_channels}"
            )
        self.architecture = {
            "model": self.kind,
            "deepmask": deepmask.architecture,
            "mask_channels": mask_channels,
            "skip_channels": skip_channels,
            "lateral_channels": list(lateral_channels),
            "schedule": schedule,
            "upsampling": upsampling,
            "form": form,
            "lateral": lateral,
            "vertical": vertical,
        }
        if not deepmask.architecture:
            self.architecture = {}
        self.geometry = deepmask.geometry
        self.upsampling = upsampling
        self.deepmask = deepmask
        self.mask_encoding = nn.Linear(deepmask.vector, mask_channels * self.geometry.grid**2)
        self.refinement = nn.ModuleList()
        pairs = zip(reversed(deepmask.backbone.channels), lateral_channels, strict=True)
        for index, (in_channels, hidden_channels) in enumerate(pairs):
            shrink = 2**index if schedule == "halving" else 1
            widths = Widths(
                features=in_channels,
                hidden=hidden_channels,
                skip=skip_channels // shrink,
                mask=mask_channels // shrink,
                out=mask_channels // (2 * shrink if schedule == "halving" else 1),
            )
            if not lateral:
                module: RefinementModule = WithoutLateral(widths, vertical=vertical)
            elif form == "concatenated" and vertical:
                module = Concatenated(widths)
            else:
                module = Refactored(widths, vertical=vertical)
            self.refinement.append(module)
        last = mask_channels // 2**modules if schedule == "halving" else mask_channels
        self.predict = Conv2d(last, 1)
        # Torch's own start shrinks a signal with every layer: after a dozen narrow ones nothing was
        # left to learn from, and some seeds stood still.
        for layer in self.refinement.modules():
            if isinstance(layer, Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        # What the last module hands over is nowhere negative. Read with positive weights it says
        # "object" everywhere, and learning to be silent on background it dies: some seeds did.
        with torch.no_grad():
            self.predict.weight[:, 0].abs_().neg_()

    @classmethod
    def of_options(cls, options: dict[str, Any]) -> "SharpMask":
        """A SharpMask with random weights on a DeepMask made from its own architecture."""
        deepmask = DeepMask.from_architecture(options.pop("deepmask"))
        return cls(deepmask, **options)

    def encode(self, images: Tensor) -> Features:
        """Read images (B, 3, H, W), RGB 0..255: bottom-up pass and all lateral features."""
        return self.add_laterals(self.deepmask.encode(images))

    def encode_patches(self, windows: Tensor) -> Features:
        """Read windows (B, 3, window_size, window_size), each its own image of a single cell."""
        return self.add_laterals(self.deepmask.encode_patches(windows))

    def add_laterals(self, features: Features) -> Features:
        """Compute the lateral features of every level, coarse to fine."""
        laterals = (
            module.lateral(x)  # type: ignore[operator]
            for module, x in zip(self.refinement, reversed(features.maps), strict=True)
        )
        return replace(features, laterals=tuple(x for x in laterals if x is not None))

    def score(self, features: Features) -> Float[Tensor, "b rows columns"]:
        """DeepMask's objectness logits of all cells."""
        return self.deepmask.score(features)

    def decode(
        self, features: Features, cells: Int[Tensor, "n 3"]
    ) -> Float[Tensor, "n patch patch"]:
        """Sharp mask logits of the chosen cells (image, row, column), at the patch's full size."""
        grid = self.geometry.grid
        mask = self.mask_encoding(self.deepmask.mask_vectors(features, cells))
        mask = mask.unflatten(1, (-1, grid, grid))
        laterals = features.laterals or (None,) * len(STRIDES)
        for module, lateral, stride in zip(
            self.refinement, laterals, reversed(STRIDES), strict=True
        ):
            if lateral is not None:
                step = self.geometry.stride // stride
                lateral = gather_windows(lateral, cells, mask.shape[-1], step)
            mask = upsample(module(mask, lateral), self.upsampling)
        return self.predict(mask).squeeze(1)  # type: ignore[no-any-return]


def upsample(x: Float[Tensor, "n c s s"], mode: Upsampling) -> Float[Tensor, "n c t t"]:
    """Double the size."""
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    # Linear along each axis: two matrix products, faster than interpolation in every engine.
    side = x.shape[-1]
    places = (torch.arange(2 * side, device=x.device, dtype=torch.float32) + 0.5) / 2
    weights = linear_weights(places, side).to(x.dtype)
    return weights @ (x @ weights.T)


def convert_form(state: dict[str, Tensor], form: Form) -> dict[str, Tensor]:
    """Rewrite a SharpMask state dict for the other published form; the function stays the same.

    Concatenated weights are [horizontal, vertical] along the input channels; of the two biases that
    the refactored form has, only the sum matters. The ablations have but one form, left as it is.
    """
    converted = dict(state)
    for key, weight in state.items():
        prefix, _, name = key.rpartition(".vertical.")
        paths = {f"{prefix}.{path}.weight" for path in ("horizontal", "mask.0")}
        if form == "concatenated" and name == "weight" and paths <= state.keys():
            horizontal = converted.pop(f"{prefix}.horizontal.weight")
            converted[f"{prefix}.fuse.weight"] = torch.cat([horizontal, weight], dim=1)
            biases = [converted.pop(f"{prefix}.{path}.bias") for path in ("horizontal", "vertical")]
            converted[f"{prefix}.fuse.bias"] = biases[0] + biases[1]
            del converted[key]
        prefix, _, name = key.rpartition(".fuse.")
        if form == "refactored" and name == "weight":
            mask_channels = state[f"{prefix}.mask.0.weight"].shape[0]
            split = [weight.shape[1] - mask_channels, mask_channels]
            horizontal, vertical = torch.split(weight, split, dim=1)
            bias = converted.pop(f"{prefix}.fuse.bias")
            converted[f"{prefix}.horizontal.weight"] = horizontal.contiguous()
            converted[f"{prefix}.horizontal.bias"] = torch.zeros_like(bias)
            converted[f"{prefix}.vertical.weight"] = vertical.contiguous()
            converted[f"{prefix}.vertical.bias"] = bias
            del converted[key]
    return converted
