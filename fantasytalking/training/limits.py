"""Limits of numbers in a run's configuration."""

from fantasytalking.common.errors import InputError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Holds a number in its limits.

    Raises:
        InputError: it lies outside; names the key, the value and the limits.
    """
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; it must be {low} to {high}")


def check_fraction(name: str, value: float) -> None:
    """Holds a share in [0, 1].

    Raises:
        InputError: as `check_range`.
    """
    check_range(name, value, 0, 1)
