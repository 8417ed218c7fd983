"""Text that may hold anything: file names that are not UTF-8, control characters, lone surrogates."""


def printable(text: str) -> str:
    r"""Returns text for one line of a terminal: everything that is not a visible character or a space is escaped.

    >>> printable("lat\udce9.mp4\x1b[31m")
    'lat\\udce9.mp4\\x1b[31m'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def utf8_bytes(text: str) -> bytes:
    r"""Returns text as UTF-8, with lone surrogates as \udXXX.

    JSON reads that as the same character, so that the names of files that are not UTF-8 survive in JSON.
    """
    return text.encode("utf-8", "backslashreplace")


def is_utf8(text: str) -> bool:
    """Whether text can be stored as UTF-8: it has no lone surrogates, which stand for bytes that are not UTF-8."""
    return utf8_bytes(text).decode("utf-8") == text


def shortened(value: object) -> str:
    """Returns a value as text that fits a message; a number may have thousands of digits."""
    is_huge = isinstance(value, int) and abs(value) >= 10**30
    return "a number of more than 30 digits" if is_huge else repr(value)[:80]
