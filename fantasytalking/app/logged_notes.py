"""Collects what is logged while a visitor's files are read, such as damaged sound, to show it on the page."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

PREFIX = "note: "
"""With which a message about an input begins."""


@contextmanager
def logged_notes() -> Iterator[list[str]]:
    """Context that returns the list to which the messages about inputs are added that this thread logs in it.

    Each is one line without `PREFIX` and stands there once.
    """
    collector = _Collector()
    package = logging.getLogger("fantasytalking")
    package.addHandler(collector)
    try:
        yield collector.notes
    finally:
        package.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[str] = []
        self._thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        note = message.removeprefix(PREFIX)
        if record.thread == self._thread and note != message and note not in self.notes:
            self.notes.append(note)
