"""Base class of all networks."""

from __future__ import annotations

from typing import Any

from torch import nn


class Network(nn.Module):
    """A network built from one dataclass of sizes, `config`.

    The configuration of a network that produces frames has the fields `scale` and `lookahead`.
    """

    config: Any

    def parameter_counts(self) -> dict[str, int]:
        """The number of parameters of each part."""
        return {part: sum(p.numel() for p in module.parameters()) for part, module in self.named_children()}
