"""The parser of every command: argparse, with the cure for a value that begins with a dash."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """Names `--option=-value` where a value is missing because it looks like an option."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Reports a mistake as argparse does."""
        super().error(message + self.dash_hint(message))

    def dash_hint(self, message: str) -> str:
        """Returns the cure if `message` reports a missing value that was given and begins with a dash, else ""."""
        missing = re.match(r"argument (\S+): expected ", message)
        for option in missing[1].split("/") if missing else ():
            for given, value in zip(self._given, self._given[1:], strict=False):
                if given == option and value.startswith("-") and value.partition("=")[0] not in self._options:
                    return f"; write {option}={value} for a value that begins with a dash"
        return ""

    @property
    def _options(self) -> set[str]:
        return {option for action in self._actions for option in action.option_strings}
