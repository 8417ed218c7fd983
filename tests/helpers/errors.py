"""Assertions about `InputError`: its code, field and value, never its prose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fantasytalking.common.errors import ErrorCode, InputError

_ANY = object()


@contextmanager
def raises_input_error(
    code: ErrorCode, field: str | None = None, value: object = _ANY
) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expects an `InputError` of this code and, where given, of this field and value."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert error.code is code, f"code {error.code}, not {code}: {error}"
    assert field is None or error.field == field, f"field {error.field!r}, not {field!r}: {error}"
    assert value is _ANY or error.value == value, f"value {error.value!r}, not {value!r}: {error}"
