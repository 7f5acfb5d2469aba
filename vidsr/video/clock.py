"""Integer ticks from one time base to another, as FFmpeg counts them. No floats."""

from __future__ import annotations

from fractions import Fraction


def to_ticks(seconds: Fraction, base: Fraction) -> int:
    """The nearest tick of `base`; halves away from zero, as av_rescale_q does."""
    ticks = seconds / base
    doubled, divisor = 2 * abs(ticks.numerator) + ticks.denominator, 2 * ticks.denominator
    nearest = doubled // divisor
    return nearest if ticks >= 0 else -nearest
