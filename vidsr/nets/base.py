"""What all networks share: they are made of one dataclass with their sizes."""

from __future__ import annotations

from typing import Any

from torch import nn


class Network(nn.Module):
    """A network that keeps its sizes as `config`; one that makes frames has `scale` and `lookahead` among them."""

    config: Any
