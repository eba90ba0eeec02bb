"""What lies at places of a picture."""

import numpy as np


def values_near(mask, point, reach):
    """What a mask holds within a distance of a point (x, y); False beyond its borders."""
    (left, top), (right, bottom) = (np.floor(point + k * reach).astype(int) for k in (-1, 1))
    rows, columns = np.arange(top, bottom + 1), np.arange(left, right + 1)
    inside = np.ix_(
        rows[(rows >= 0) & (rows < mask.shape[0])],
        columns[(columns >= 0) & (columns < mask.shape[1])],
    )
    values = mask[inside]
    beyond = {False} if values.size < len(rows) * len(columns) else set()
    return beyond | set(values.astype(bool).ravel().tolist())
