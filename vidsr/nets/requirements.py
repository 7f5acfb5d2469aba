"""What the sizes and options of a network must be like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def refuse_unmet(requirements: Mapping[str, bool]) -> None:
    """Raises ValueError with the first requirement that is not met."""
    for requirement, met in requirements.items():
        if not met:
            raise ValueError(requirement)


def one_of(name: str, value: int, choices: Sequence[int]) -> dict[str, bool]:
    """The requirement that a number is one of two or more."""
    return {f"{name} is {', '.join(map(str, choices[:-1]))} or {choices[-1]}": value in choices}
