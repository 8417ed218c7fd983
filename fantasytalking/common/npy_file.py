"""Reads one array of others from an .npy file: numbers only, no larger than the file."""

import math
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import bounded_file
from fantasytalking.common.limits import MAX_CONDITION_BYTES

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: str | Path, max_bytes: int = MAX_CONDITION_BYTES) -> NDArray[np.float32]:
    """Returns the numbers of an .npy file as float32.

    Raises:
        InputError: the file is missing, larger than `max_bytes`, no .npy file, shorter than its header states, or holds
            something else than finite real numbers.
    """
    path = bounded_file(path, "array", max_bytes, "store fewer numbers", field="path")
    try:
        with path.open("rb") as file:
            read_header = _HEADER_READERS[np.lib.format.read_magic(file)]
            shape, _, dtype = read_header(file)
            if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize > path.stat().st_size:
                raise ValueError(f"{dtype} numbers of shape {shape}")
            file.seek(0)
            values = np.load(file, allow_pickle=False).astype(np.float32)
    except (ValueError, KeyError, OSError, EOFError, TokenError) as error:
        raise InputError(
            f"'{path}' is not an .npy file of numbers ({error}); write it by numpy.save",
            code=ErrorCode.malformed_file,
            field="path",
            value=str(path),
        ) from error
    if not np.isfinite(values).all():
        raise InputError(
            f"'{path}' has values that are NaN or infinite; correct them",
            code=ErrorCode.malformed_file,
            field="path",
            value=str(path),
        )
    return values
