"""Messages and progress bars on the terminal."""

import sys

from fantasytalking.common.text import printable


def notify(message: str) -> None:
    """Writes a line to stderr, which carries no results; what a terminal cannot show is escaped."""
    sys.stderr.write(printable(message) + "\n")


def notify_warning(message: str) -> None:
    """Writes a line to stderr about something that may not be wanted."""
    notify(f"warning: {message}")


def silence_libraries() -> None:
    """Hides the progress bars that libraries show for every file they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
