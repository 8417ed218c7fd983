"""Range checks of configuration fields."""

from collections.abc import Mapping

from fantasytalking.common.errors import ErrorCode, InputError


def check_ranges(owner: object, limits: Mapping[str, tuple[float, float]], prefix: str = "") -> None:
    """Checks that each named attribute of `owner` is None or lies in its closed range.

    Args:
        limits: lowest and highest value by attribute name.
        prefix: path of `owner` in the configuration, with a dot at its end.

    Raises:
        InputError: a value lies outside its range.
    """
    for name, (low, high) in limits.items():
        value = getattr(owner, name)
        if value is not None and not low <= value <= high:
            raise InputError(
                f"{prefix}{name} is {value}; it must be {low:g} to {high:g}",
                code=ErrorCode.out_of_range,
                field=f"{prefix}{name}",
                value=value,
            )
