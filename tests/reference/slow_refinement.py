"""SharpMask's top-down pass, one window at a time in NumPy, from the equations of section 3.

S_i = relu(conv(relu(conv(F_i)))), M_{i+1} = up(relu(conv([S_i, relu(conv(M_i))]))), then one last
convolution. Everything is float64; borders repeat the edge.
"""

import numpy as np


def conv(x, weight, bias):
    """Convolve (c, h, w) tap by tap, the border mirrored."""
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    y = np.zeros((len(weight), *x.shape[1:])) + bias[:, None, None]
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            seen = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
            y += np.einsum("oc,chw->ohw", weight[:, :, row, column], seen)
    return y


def relu(x):
    """Rectify."""
    return np.maximum(x, 0)


def upsample(x, mode):
    """Double the sides: repeat pixels, or mix each new pixel 3:1 from the two nearest old ones."""
    if mode == "nearest":
        return x.repeat(2, axis=1).repeat(2, axis=2)
    for axis in (1, 2):
        size = x.shape[axis]
        pieces = []
        for new in range(2 * size):
            near, far = new // 2, new // 2 + (1 if new % 2 else -1)
            far = min(max(far, 0), size - 1)
            pieces.append(0.75 * x.take(near, axis) + 0.25 * x.take(far, axis))
        x = np.stack(pieces, axis)
    return x


def refine(state, vector, maps, cell, grid, upsampling):
    """Mask logits of one window.

    Which paths exist and in which form they are fused is read from the names in the state dict.
    In a whole image the two forms see different borders: the concatenated one convolves a window's
    own S, the refactored one the image's.

    Args:
        state: SharpMask's state dict, as arrays.
        vector: The window's mask vector.
        maps: The image's features, coarse to fine, each twice as fine as the one before.
        cell: Row and column of the window.
        grid: Side of the mask encoding.
        upsampling: "nearest" or "bilinear".
    """

    def layer(x, name):
        return conv(x, state[f"{name}.weight"], state[f"{name}.bias"])

    mask = state["mask_encoding.weight"] @ vector + state["mask_encoding.bias"]
    mask = mask.reshape(-1, grid, grid)
    for index, features in enumerate(maps):
        name, size = f"refinement.{index}", mask.shape[1]
        top, left = (position * 2**index for position in cell)
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        if f"{name}.mask.0.weight" in state:
            mask = relu(layer(mask, f"{name}.mask.0"))
        lateral = f"{name}.skip.0.weight" in state
        if lateral:
            skip = relu(layer(relu(layer(features, f"{name}.skip.0")), f"{name}.skip.2"))
        if f"{name}.fuse.weight" in state:
            mask = layer(np.concatenate([skip[window], mask]), f"{name}.fuse")
        else:
            mask = layer(mask, f"{name}.vertical")
            if lateral:
                mask = mask + layer(skip, f"{name}.horizontal")[window]
        mask = upsample(relu(mask), upsampling)
    return layer(mask, "predict")[0]
