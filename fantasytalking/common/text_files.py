"""Reads text, JSON and YAML that others wrote: bounded, in the encodings that editors save, with errors of one line."""

import codecs
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import (
    MAX_JSON_BYTES,
    MAX_NESTING,
    MAX_NUMBER_DIGITS,
    MAX_YAML_BYTES,
    MAX_YAML_NODES,
)

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text_file(path: str | Path, what: str, max_bytes: int) -> str:
    r"""Reads a text file in UTF-8, or in UTF-16 with a byte-order mark; without the mark, and with \n for any newline.

    Args:
        path: the file.
        what: names it in messages ("caption", "config").
        max_bytes: largest size; no more is read.

    Raises:
        InputError: the file is missing, larger than `max_bytes`, or in another encoding.
    """
    path = existing_file(path, what)
    with _reading_errors(path, what):
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise _too_large(path, what, max_bytes)
        text = content.decode(_encoding(content))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text_lines(path: str | Path, what: str, max_bytes: int, max_line: int) -> Iterator[tuple[int, str]]:
    """Streams the numbered lines of a text file, without their newlines; encodings as in `read_text_file`.

    Args:
        path: the file.
        what: names it in messages.
        max_bytes: largest size of the file.
        max_line: largest number of characters in a line.

    Yields:
        The number, from 1, and the line.

    Raises:
        InputError: as `read_text_file`, or a line is longer than `max_line`.
    """
    path = existing_file(path, what)
    with _reading_errors(path, what):
        with path.open("rb") as file:
            encoding = _encoding(file.read(4))
        left = max_bytes
        with path.open(encoding=encoding) as text:
            for number, line in enumerate(iter(lambda: text.readline(max_line + 1), ""), start=1):
                left -= len(line)
                if left < 0:
                    raise _too_large(path, what, max_bytes)
                if len(line) > max_line and not line.endswith("\n"):
                    raise InputError(
                        f"{what} '{path}' line {number} has more than {max_line} characters; correct it",
                        code=ErrorCode.malformed_file,
                        field=f"line {number}",
                    )
                yield number, line.removesuffix("\n")


def parse_json(text: str, source: str, *, allow_nan: bool = True) -> Any:
    """Parses JSON whose nesting and numbers are bounded.

    Args:
        text: the JSON.
        source: names the text in messages: a path, or a line of one.
        allow_nan: accept NaN and infinity, which Python and diffusers write and JSON does not know.

    Raises:
        InputError: the text is not JSON, is nested deeper than `MAX_NESTING`, or has a number of more than
            `MAX_NUMBER_DIGITS` digits, a number that is not finite, or half of a surrogate pair. Those that stand
            for the bytes of a file name that is not UTF-8 (U+DC80 to U+DCFF) are kept.
    """
    numbers: dict[str, Any] = {} if allow_nan else {"parse_float": _finite_float, "parse_constant": _finite_float}
    try:
        value = json.loads(text, parse_int=_bounded_int, **numbers)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        _check_nesting(value)
    except RecursionError as error:
        raise _not_json(source, f"it is nested more than {MAX_NESTING} deep") from error
    except UnicodeError as error:
        raise _not_json(source, "it has half of a surrogate pair") from error
    except ValueError as error:
        raise _not_json(source, str(error)) from error
    return value


def read_json(
    path: str | Path, what: str = "", max_bytes: int = MAX_JSON_BYTES, *, allow_nan: bool = True
) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.
        what: names it in messages and is the field of errors; "": the path is.
        max_bytes: largest size.
        allow_nan: as `parse_json`.

    Raises:
        InputError: as `read_text_file` and `parse_json`, or the file contains something else.
    """
    text = read_text_file(path, what or "file", max_bytes)
    try:
        value = parse_json(text, str(path), allow_nan=allow_nan)
    except InputError as error:
        error.field, error.value = what or str(path), str(path)
        raise
    if not isinstance(value, dict):
        raise InputError(
            f"'{path}' contains a {type(value).__name__}; a JSON object is needed",
            code=ErrorCode.malformed_file,
            field=what or str(path),
            value=str(path),
        )
    return value


def read_yaml_text(path: str | Path, what: str) -> str:
    """Reads the text of a YAML file and checks it with `check_yaml`; its values are not built yet.

    Raises:
        InputError: as `read_text_file` and `check_yaml`.
    """
    text = read_text_file(path, what, MAX_YAML_BYTES)
    try:
        check_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            f"{what} '{path}' is not valid YAML: {error}",
            code=ErrorCode.malformed_file,
            field=what,
            value=str(path),
        ) from error
    return text


def check_yaml(text: str) -> None:
    """Bounds what YAML costs to build, by the parser's events, which are not nested themselves.

    Raises:
        ValueError: the text is nested deeper than `MAX_NESTING`, has more than `MAX_YAML_NODES` values, both with its
            aliases expanded, or a number of more than `MAX_NUMBER_DIGITS` digits.
        yaml.YAMLError: the text is not YAML.
    """
    anchors: dict[str | None, tuple[int, int]] = {}  # size and height of the finished ones
    opened: list[_Collection] = []
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        size, height, anchor = 0, 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Collection(anchor, count))
            size = 1
        elif isinstance(event, yaml.ScalarEvent):
            _check_digits(event.value)
            size = 1
            anchors[anchor] = size, height
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == collection.anchor for collection in opened):
                raise ValueError(f"the alias '{anchor}' contains itself")
            size, height = anchors.get(anchor, (1, 0))  # building reports an unknown one
        elif isinstance(event, yaml.CollectionEndEvent):
            done = opened.pop()
            height = done.height + 1
            anchors[done.anchor] = count - done.count_before, height
        count += size
        if opened:
            opened[-1].height = max(opened[-1].height, height)
        if len(opened) + height > MAX_NESTING:
            raise ValueError(f"it is nested more than {MAX_NESTING} deep")
        if count > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES} values")


@dataclass
class _Collection:
    """A list or object of YAML whose end was not reached."""

    anchor: str | None
    count_before: int
    height: int = 0


def _check_nesting(value: Any) -> None:
    level: list[Any] = [[value]]
    for _ in range(MAX_NESTING + 2):
        if not level:
            return
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    raise RecursionError


def _bounded_int(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _check_digits(number: str) -> None:
    if len(number) > MAX_NUMBER_DIGITS and re.fullmatch(r"[-+]?[0-9][0-9a-fA-F_:.xob]*", number):
        raise ValueError(f"a number has {len(number)} digits; the limit is {MAX_NUMBER_DIGITS}")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is not finite")
    return value


def _encoding(begin: bytes) -> str:
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if begin.startswith(mark)), "utf-8")


@contextmanager
def _reading_errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise InputError(
            f"{what} '{path}' is not UTF-8 text; save it as UTF-8",
            code=ErrorCode.malformed_file,
            field=what,
            value=str(path),
        ) from error
    except OSError as error:
        raise InputError(
            f"{what} '{path}' cannot be read ({error.strerror}); check its file system",
            code=ErrorCode.missing_file,
            field=what,
            value=str(path),
        ) from error


def _too_large(path: Path, what: str, max_bytes: int) -> InputError:
    return InputError(
        f"{what} '{path}' has more than {max_bytes} bytes, the limit; give a smaller file",
        code=ErrorCode.out_of_range,
        field=what,
        value=str(path),
    )


def _not_json(source: str, reason: str) -> InputError:
    return InputError(f"'{source}' is not valid JSON: {reason}", code=ErrorCode.malformed_file, field=source)
