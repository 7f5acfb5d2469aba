"""Configuration of a SECNet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vidsr.nets.layers.conditioning import CELL
from vidsr.nets.requirements import refuse_unmet
from vidsr.nets.secnet.feature_encoding import Strategy


@dataclass(frozen=True, slots=True)
class SECNetConfig:
    """Sizes and options; the defaults are those of secnet-fast, models/recipes/secnet.toml has those of the paper.

    The temporal window has t1 neighbors on each side; t2 past results and t3 past features are used (T1 to T3 of the
    paper; t3 only with a bidirectional encoding). Without `local_fusion` the network is ERFFNet, without
    `recurrent_fusion` LFFNet (III-A). `mirrored` (ours) affects streams only, see RecurrentEngine. An
    `estimator_width` (ours) above 0 adds the estimator of blur, noise and compression and the modulation by their
    levels, with `modulation_width` hidden units. With an `unshuffle` above 1 (ours, for small scales) all layers see
    the frame at 1/`unshuffle` of its size, every pixel of which has the pixels of a square of the frame as channels;
    motion is estimated at that size, too. A `reference_width` (ours) above 0 adds the branch of reference photographs,
    with as many channels.
    """

    scale: int = 4
    t1: int = 1
    t2: int = 1
    t3: int = 0
    flow_width: int = 24
    flow_depth: int = 5
    flow_levels: int = 3
    local_fusion: bool = True
    fusion_width: int = 32
    fusion_blocks: int = 3
    fusion_tail: int = 0
    recurrent_fusion: bool = True
    recurrent_width: int = 32
    detail_widths: tuple[int, ...] = ()
    encoder_blocks: int = 1
    decoder_blocks: int = 4
    encoding: Strategy = "one-way"
    aligned: bool = True
    attention: bool = False
    mirrored: bool = False
    estimator_width: int = 0
    modulation_width: int = 32
    unshuffle: int = 1
    reference_width: int = 0

    @property
    def offsets(self) -> tuple[int, ...]:
        """Offsets from t of the frames to which motion is estimated: -1, -2, ..., then +1, +2, ..."""
        back = max(self.t1 if self.local_fusion else 0, self.t2 if self.recurrent_fusion else 0)
        forth = self.t1 if self.local_fusion else 0
        return (*range(-1, -1 - back, -1), *range(1, 1 + forth))

    @property
    def multiple_of(self) -> int:
        """Side in pixels of the coarsest cells of a frame; frames whose sides are no multiples of it are padded."""
        cell = CELL if self.estimator_width else 1
        return math.lcm(self.unshuffle * int(2**self.flow_levels), cell)

    @property
    def fold(self) -> int:
        """Side in pixels of the result that a pixel of the features stands for."""
        return self.scale * self.unshuffle

    @property
    def lookahead(self) -> int:
        """Number of later frames that a result needs."""
        return self.t1 if self.local_fusion else 0


def check(config: SECNetConfig) -> None:
    """Raises ValueError, naming the violated requirement, for an invalid configuration."""
    sizes = (config.scale, config.flow_width, config.flow_levels, config.fusion_width, config.recurrent_width)
    blocks = (config.fusion_blocks, config.fusion_tail, config.encoder_blocks, config.decoder_blocks)
    requirements = {
        "scale, widths and flow_levels are 1 or more": min(*sizes, *config.detail_widths) >= 1,
        "flow_levels is 8 at most": config.flow_levels <= 8,  # a pyramid of 256 pixels
        "scale is 8 at most": config.scale <= 8,
        "flow_depth is 2 or more": config.flow_depth >= 2,
        "blocks and fusion_tail cannot be negative": min(blocks) >= 0,
        "local_fusion and recurrent_fusion cannot both be off": config.local_fusion or config.recurrent_fusion,
        "a window needs t1 of 1 or more": config.t1 >= 1 or not config.local_fusion,
        "without local_fusion, t2 is 1 or more: nothing else gives motion": config.t2 >= 1 or config.local_fusion,
        "t2 and t3 cannot be negative": min(config.t2, config.t3) >= 0,
        "detail_widths are two (scale 4 is two halvings) or none": len(config.detail_widths) in (0, 2),
        "detail_widths need scale 4": not config.detail_widths or config.scale == 4,
        "encoding is one-way, cascaded or fused": config.encoding in ("one-way", "cascaded", "fused"),
        "t3 belongs to the bidirectional encodings": (config.t3 > 0) == (config.encoding != "one-way"),
        "only the one-way encoding can be aligned": not config.aligned or config.encoding == "one-way",
        "estimator_width is 0 or 2 or more, modulation_width 1 or more": (
            config.estimator_width == 0 or config.estimator_width >= 2
        )
        and config.modulation_width >= 1,
        "an estimator belongs to a narrow network with both fusions (no detail_widths, no fusion_tail)": (
            config.estimator_width == 0
            or (config.local_fusion and config.recurrent_fusion and not config.detail_widths and not config.fusion_tail)
        ),
        "unshuffle is 1 or 2, above 1 only in a narrow network (no detail_widths, no fusion_tail)": (
            config.unshuffle == 1 or (config.unshuffle == 2 and not config.detail_widths and not config.fusion_tail)
        ),
        "reference_width cannot be negative": config.reference_width >= 0,
        "aligned needs a past result's motion (t2 of 1 or more)": not config.aligned or config.t2 >= 1,
    }
    refuse_unmet(requirements)
