"""Formats log messages for a terminal."""

import logging

from fantasytalking.common.text import printable


class TerminalFormatter(logging.Formatter):
    """Formats messages with everything escaped that a terminal would interpret, such as names in manifests of others.

    Lines of a message stay lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the formatted message."""
        return "\n".join(printable(line) for line in super().format(record).split("\n"))
