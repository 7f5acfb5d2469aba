"""Base class of all networks."""

from __future__ import annotations

from typing import Any

from torch import nn


class Network(nn.Module):
    """A network built from one dataclass of sizes, `config`.

    The configuration of a network that produces frames has the fields `scale` and `lookahead`.
    """

    config: Any
