"""Prints the table of limits of docs/troubleshooting.md, from fantasytalking/common/limits.py.

python docs/make_limits.py
"""

import ast
import sys
from itertools import pairwise
from pathlib import Path

from fantasytalking.common import limits

SOURCE = Path(limits.__file__)


def limit_table() -> str:
    """Returns the table as Markdown: every limit with its value and meaning, in the order of the module."""
    lines = ["| limit | value | of |", "|---|---|---|"]
    body = ast.parse(SOURCE.read_text(encoding="utf-8")).body
    for assignment, text in pairwise(body):
        if isinstance(assignment, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            (target,) = assignment.targets
            assert isinstance(target, ast.Name), ast.dump(target)
            value = getattr(limits, target.id)
            lines.append(f"| `{target.id}` | {_with_unit(target.id, value)} | {str(text.value.value).rstrip('.')} |")
    return "\n".join(lines) + "\n"


def _with_unit(name: str, value: float) -> str:
    unit = name.rpartition("_")[2].lower()
    if unit == "bytes":
        power = max(power for power in (0, 10, 20, 30) if value % 2**power == 0)
        return f"{value / 2**power:,.0f} {({0: 'bytes', 10: 'KiB', 20: 'MiB', 30: 'GiB'})[power]}"
    if unit == "seconds":
        return f"{value / 3600:g} hours" if value >= 3600 else f"{value / 60:g} minutes"
    if unit == "share":
        return f"{value:.0%}"
    units = {"chars": " characters", "fps": " per second", "pixels": " pixels", "side": " pixels"}
    return f"{value:,.0f}{units.get(unit, '')}"


if __name__ == "__main__":
    sys.stdout.write(limit_table())
