"""Largest differences between two ways to compute the same thing, for ``assert_close``."""

import torch

# Networks here are shallow and their values near one, so one line a type serves all tests.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
}
DOUBLE = TOLERANCES[torch.float64]
SINGLE = TOLERANCES[torch.float32]
