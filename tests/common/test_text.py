"""Text with characters that a terminal or UTF-8 cannot take."""

import json
import os

import pytest

from fantasytalking.common.text import is_utf8, printable, utf8_bytes

LATIN = os.fsdecode(b"lat\xe9")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.mp4", "a b.mp4"),
        ("東京 ñ 🙂", "東京 ñ 🙂"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("one\ntwo\r\t", "one\\ntwo\\r\\t"),
        ("txt\u202egnp.exe", "txt\\u202egnp.exe"),
        (LATIN, "lat\\udce9"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["plain", "東京", LATIN, "\ud800", "back\\slash"])
def test_json_keeps_every_name(text: str):
    stored = utf8_bytes(json.dumps({"name": text}, ensure_ascii=False))
    assert json.loads(stored.decode("utf-8")) == {"name": text}
    assert is_utf8(text) == (text not in (LATIN, "\ud800"))
