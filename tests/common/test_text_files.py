"""Text, JSON and YAML of others: encodings, newlines, and bounds on what they cost."""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.limits import MAX_NESTING, MAX_NUMBER_DIGITS, MAX_YAML_BYTES, MAX_YAML_NODES
from fantasytalking.common.text_files import parse_json, read_json, read_text_file, read_text_lines
from tests.helpers.errors import raises_input_error

TEXT = "name: Jürgen\nsize: 3\n"
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@dataclass
class Settings:
    name: str = ""
    size: int = 0
    values: Any = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_what_an_editor_saves_is_read_as_the_same_text(
    path: Path, encode: Callable[[str], bytes], newline: str
) -> None:
    path.write_bytes(encode(TEXT.replace("\n", newline)))
    assert read_text_file(path, "text", 100) == TEXT
    assert list(read_text_lines(path, "text", 100, 20)) == [(1, "name: Jürgen"), (2, "size: 3")]
    assert load_config(Settings, path) == Settings("Jürgen", 3)
    path.write_bytes(encode('{"name": "Jürgen",\n"size": 3}\n'.replace("\n", newline)))
    assert read_json(path) == {"name": "Jürgen", "size": 3}


def test_other_encodings_and_sizes_are_refused(path: Path) -> None:
    path.write_bytes(TEXT.encode("latin-1"))
    for read in (lambda: read_text_file(path, "text", 100), lambda: list(read_text_lines(path, "text", 100, 100))):
        with raises_input_error(ErrorCode.malformed_file, "text", str(path)):
            read()
    path.write_text("1234\n12345\n123456\n")
    assert read_text_file(path, "text", 18) == path.read_text()
    for read in (lambda: read_text_file(path, "text", 17), lambda: list(read_text_lines(path, "text", 17, 6))):
        with raises_input_error(ErrorCode.out_of_range, "text", str(path)):
            read()
    assert len(list(read_text_lines(path, "text", 18, 6))) == 3
    with raises_input_error(ErrorCode.malformed_file, "line 3"):
        list(read_text_lines(path, "text", 18, 5))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000 + "]" * 20_000,
        '{"a":' * 20_000,
        "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1),
        "9" * 5000,
        "[-" + "9" * (MAX_NUMBER_DIGITS + 1) + "]",
        '["\\ud800"]',
        "",
    ],
    ids=lambda text: f"{text[:5]} x {len(text)}",
)
def test_json_that_would_break_its_reader_is_refused_in_a_line(text: str) -> None:
    with raises_input_error(ErrorCode.malformed_file, "a.json") as caught:
        parse_json(text, "a.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_json_within_the_limits_is_read() -> None:
    nested = parse_json("[" * MAX_NESTING + "]" * MAX_NESTING, "a.json")
    for _ in range(MAX_NESTING - 1):
        (nested,) = nested
    assert nested == []
    assert parse_json("9" * MAX_NUMBER_DIGITS, "a.json") == 10**MAX_NUMBER_DIGITS - 1
    assert parse_json('"\\ud83d\\ude00"', "a.json") == "\N{GRINNING FACE}"


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "9" * 250 + "e99"])
def test_numbers_that_are_not_finite_are_refused_where_measurements_are_read(number: str) -> None:
    assert not abs(parse_json(f"[{number}]", "a.json")[0]) < 1e308
    with raises_input_error(ErrorCode.malformed_file, "a.json"):
        parse_json(f"[{number}]", "a.json", allow_nan=False)


def test_another_kind_of_json_is_refused(path: Path) -> None:
    path.write_text("[1]")
    with raises_input_error(ErrorCode.malformed_file, str(path)):
        read_json(path)


@pytest.mark.parametrize(
    "values",
    [
        "[" * 20_000 + "]" * 20_000,
        "[" * 20_000,
        "\n" + "".join(" " * (level + 1) + "a:\n" for level in range(MAX_NESTING + 1)),
        "9" * 5000,
        "0x" + "f" * 5000,
        "&a [*a]",
        "[" + "1," * MAX_YAML_NODES + "1]",
        "{a0: &a0 [], " + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 4}], " for n in range(1, 9)) + "}",
        "{a0: &a0 [], " + "".join(f"a{n}: &a{n} [*a{n - 1}], " for n in range(1, MAX_NESTING + 1)) + "}",
    ],
    ids=["nested", "unclosed", "indented", "digits", "hexadecimal", "recursive", "many", "aliases", "alias chain"],
)
def test_yaml_that_would_break_its_reader_is_refused_in_a_line(path: Path, values: str) -> None:
    path.write_text(f"values: {values}\n")
    with raises_input_error(ErrorCode.malformed_file, "config", str(path)):
        load_config(Settings, path)
    if "\n" not in values:
        with raises_input_error(ErrorCode.invalid_type, "override", f"values={values}") as caught:
            load_config(Settings, None, [f"values={values}"])
        assert len(str(caught.value)) < 400


def test_yaml_within_the_limits_is_read(path: Path) -> None:
    path.write_text("values: {a: &a {b: 1}, c: {<<: *a, d: [*a, *a]}}\n")
    assert load_config(Settings, path).values == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}, {"b": 1}]}}
    depth = MAX_NESTING - 1
    path.write_text(f"values: {'[' * depth + ']' * depth}\n")
    values = load_config(Settings, path).values
    for _ in range(depth - 1):
        (values,) = values
    assert values == []
    path.write_text("#" * (MAX_YAML_BYTES + 1))
    with raises_input_error(ErrorCode.out_of_range, "config", str(path)):
        load_config(Settings, path)
