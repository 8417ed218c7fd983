"""Validates that configuration values lie in their ranges."""

from collections.abc import Mapping

from fantasytalking.common.errors import ErrorCode, InputError


def check_range(key: str, value: float, low: float, high: float) -> None:
    """Validates that a number lies in [`low`, `high`].

    Args:
        key: path of the value in the configuration, as in "stage.steps".

    Raises:
        InputError: the value lies outside, or is not a number (NaN).
    """
    if not low <= value <= high:
        raise InputError(
            f"{key} is {value}; it must be {low:g} to {high:g}", code=ErrorCode.out_of_range, field=key, value=value
        )


def check_fraction(key: str, value: float) -> None:
    """Validates that a number lies in [0, 1].

    Raises:
        InputError: as `check_range`.
    """
    check_range(key, value, 0, 1)


def check_ranges(config: object, ranges: Mapping[str, tuple[float, float]], prefix: str = "") -> None:
    """Validates that attributes of `config` are None or lie in their closed ranges.

    Args:
        config: a section of a configuration.
        ranges: lowest and highest value by name of the attribute.
        prefix: path of `config` in the whole configuration, with a dot at its end.

    Raises:
        InputError: a value lies outside its range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None:
            check_range(f"{prefix}{name}", value, low, high)
