"""Messages and progress bars on the terminal."""

import sys


def notify(message: str) -> None:
    """Writes a line to stderr, which carries no results."""
    sys.stderr.write(message + "\n")


def silence_libraries() -> None:
    """Hides the progress bars that libraries show for every file they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
