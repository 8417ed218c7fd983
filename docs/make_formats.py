"""Prints the table of published files of docs/models.md, each written small and read; needs gguf and sentencepiece.

python docs/make_formats.py
"""

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers.published_formats import FORMATS


def format_table() -> str:
    """Returns the table as Markdown: every published format, where it is given, and whether it is read."""
    logging.disable(logging.WARNING)  # notes about assumed settings
    lines = ["| file | setting | outcome |", "|---|---|---|"]
    for entry in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(f"| {entry.file} | {entry.setting} | {entry.outcome(Path(folder))} |")
    logging.disable(logging.NOTSET)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(format_table())
