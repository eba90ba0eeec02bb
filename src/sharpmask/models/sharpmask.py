"""SharpMask: a top-down pass of refinement modules on a DeepMask (SharpMask, section 3).

Each module doubles the mask encoding's size while mixing in the bottom-up features of that size:
S = relu(conv(F)), M' = up(relu(conv([S, M]))). Published in two forms of the same function: the
convolution over the concatenation, and the refactored one, where the part that reads S runs once
for the whole image and only the part that reads M runs for each window.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sharpmask.models.backbones import STRIDES
from sharpmask.models.deepmask import DeepMask, Features
from sharpmask.models.layers import Conv2d, gather_windows, linear_weights
from sharpmask.models.window_net import WindowNet

Form = Literal["refactored", "concatenated"]
Schedule = Literal["halving", "constant"]
Upsampling = Literal["bilinear", "nearest"]


class RefinementModule(nn.Module):
    """One step of the top-down pass.

    Args:
        in_channels: Channels of the bottom-up features F.
        hidden_channels: Channels of the first lateral convolution; one convolution was hard to
            train.
        skip_channels: Channels k_s of the skip features S.
        mask_channels: Channels k_m of the mask encoding M that comes in.
        out_channels: Channels of the mask encoding that goes out.
        form: Which published form computes the fusion.
        lateral: Without it F is not read (a deconvolution net).
        vertical: Without it M passes through a single 1x1 convolution (a skip net).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: int,
        skip_channels: int,
        mask_channels: int,
        out_channels: int,
        form: Form,
        lateral: bool,
        vertical: bool,
    ) -> None:
        super().__init__()
        self.form = form
        if lateral:
            self.skip = nn.Sequential(
                Conv2d(in_channels, hidden_channels), nn.ReLU(),
                Conv2d(hidden_channels, skip_channels), nn.ReLU(),
            )  # fmt: skip
        # Deviation: no-vertical
        self.mask = (
            nn.Sequential(Conv2d(mask_channels, mask_channels), nn.ReLU(inplace=True))
            if vertical
            else nn.Identity()
        )
        kernel = 3 if vertical else 1
        if form == "concatenated" and lateral and vertical:
            self.fuse = Conv2d(skip_channels + mask_channels, out_channels)
        else:
            self.vertical = Conv2d(mask_channels, out_channels, kernel)
            if lateral:
                self.horizontal = Conv2d(skip_channels, out_channels)

    def lateral(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l h w"] | None:
        """What the windows read at this level: computed once for the whole image."""
        if not hasattr(self, "skip"):
            return None
        skip = self.skip(features)
        return self.horizontal(skip) if hasattr(self, "horizontal") else skip  # type: ignore[no-any-return]

    def forward(
        self, mask: Float[Tensor, "n m s s"], lateral: Float[Tensor, "n l s s"] | None
    ) -> Float[Tensor, "n o s s"]:
        """The fused encoding of each window, before upsampling."""
        mask = self.mask(mask)
        if hasattr(self, "fuse"):
            return F.relu(self.fuse(torch.cat([lateral, mask], dim=1)))  # type: ignore[list-item]
        mask = self.vertical(mask)
        return F.relu(mask if lateral is None else mask.add_(lateral), inplace=True)


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
        self.geometry = deepmask.geometry
        self.upsampling = upsampling
        self.deepmask = deepmask
        self.mask_encoding = nn.Linear(deepmask.vector, mask_channels * self.geometry.grid**2)
        self.refinement = nn.ModuleList()
        pairs = zip(reversed(deepmask.backbone.channels), lateral_channels, strict=True)
        for index, (in_channels, hidden_channels) in enumerate(pairs):
            shrink = 2**index if schedule == "halving" else 1
            self.refinement.append(
                RefinementModule(
                    in_channels,
                    hidden_channels=hidden_channels,
                    skip_channels=skip_channels // shrink,
                    mask_channels=mask_channels // shrink,
                    out_channels=mask_channels // (2 * shrink if schedule == "halving" else 1),
                    form=form,
                    lateral=lateral,
                    vertical=vertical,
                )
            )
        last = mask_channels // 2**modules if schedule == "halving" else mask_channels
        self.predict = Conv2d(last, 1)
        # Torch's own start shrinks a signal with every layer: after a dozen narrow ones nothing was
        # left to learn from, and some seeds stood still.
        for module in self.refinement.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        # What the last module hands over is nowhere negative. Read with positive weights it says
        # "object" everywhere, and learning to be silent on background it dies: some seeds did.
        with torch.no_grad():
            self.predict.weight[:, 0].abs_().neg_()

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
