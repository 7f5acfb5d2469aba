"""Keys' cubic kernel with a = -0.5 (Keys, IEEE Trans. ASSP 1981), as MATLAB, Pillow and the papers use it."""

from __future__ import annotations

import torch
from torch import Tensor

RADIUS = 2.0


def keys_weights(distance: Tensor) -> Tensor:
    """The kernel at these distances, 0 or more, in pixels of the coarser grid and in float64; 0 from RADIUS on."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance <= 1, near, torch.where(distance < RADIUS, far, 0.0))
