"""The parser of every command: one line for a mistake, help for every option, and `~` replaced as by a shell."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.text import is_utf8

_CODES = {
    "unrecognized arguments": ErrorCode.unknown_key,
    "the following arguments are required": ErrorCode.missing_value,
    "expected": ErrorCode.missing_value,
    "invalid choice": ErrorCode.invalid_choice,
    "not allowed with": ErrorCode.conflict,
}
"""Kinds of mistakes by a part of argparse's message."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written; the help of an option ends in its default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        without_value = action.nargs == 0 or action.required or not action.option_strings
        if without_value or "default" in text or action.default in (None, argparse.SUPPRESS, []):
            return text
        shown = " ".join(map(str, action.default)) if isinstance(action.default, list | tuple) else action.default
        return f"{text} (default: {shown})".replace("%", "%%")


class CommandParser(argparse.ArgumentParser):
    """Parses a command's options.

    Args:
        prog: name in the usage line; None: the file name of the script.
        description: shown as it is written.
        allow_abbrev: whether an option may be given by its first letters.
    """

    _given: Sequence[str] = ()

    def __init__(self, prog: str | None, description: str | None, *, allow_abbrev: bool = True) -> None:
        super().__init__(prog=prog, description=description, formatter_class=_HelpFormatter, allow_abbrev=allow_abbrev)

    def add_path(self, option: str, **settings: Any) -> None:
        """Adds an option that is a path, with the `settings` of `add_argument`."""
        self.add_argument(option, type=path_argument, **settings)

    def add_settings(self, help_text: str) -> None:
        """Adds the key=value settings that a command takes besides its options."""
        self.add_argument("overrides", nargs="*", type=_setting, metavar="key=value", help=help_text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises one line, as for every other mistake."""
        code = next((code for part, code in _CODES.items() if part in message), ErrorCode.invalid_type)
        cure = self._dash_cure(message) or "--help lists all options"
        raise InputError(f"{message}; {cure}", code=code, field=message.split(":")[0])

    def _dash_cure(self, message: str) -> str | None:
        """Returns the cure if `message` reports a missing value that was given and begins with a dash."""
        missing = re.match(r"argument (\S+): expected ", message)
        options = {option for action in self._actions for option in action.option_strings}
        for option in missing[1].split("/") if missing else ():
            for given, value in pairwise(self._given):
                if given == option and value.startswith("-") and value.partition("=")[0] not in options:
                    return f"write {option}={value} for a value that begins with a dash"
        return None


def path_argument(text: str) -> Path:
    """Type of an option that is a path: `~` is replaced, which shells leave in --option=~/path."""
    return Path(_expanded(text))


def _setting(text: str) -> str:
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not UTF-8; rename the file, or write the value in UTF-8")
    key, separator, value = text.partition("=")
    return key + separator + _expanded(value)


def _expanded(text: str) -> str:
    """Replaces a leading ~ or ~user as a shell does: other text, and the name of no user, stay as they are."""
    first, separator, rest = text.partition("/")
    if not first.startswith("~"):
        return text
    with suppress(RuntimeError):
        first = str(Path(first).expanduser())
    return first + separator + rest
