"""The README's map names every file, and nothing that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("fantasytalking", "scripts", "configs", "data")
TOLD_TOGETHER = {"__init__.py"}


def mapped_files() -> set[str]:
    """Paths in the section Map: a folder in bold, then its files in backquotes at the start of list items."""
    section = (ROOT / "README.md").read_text().split("\n## Map\n", 1)[1].split("\n## ", 1)[0]
    folder, found = "", set()
    for line in section.splitlines():
        if heading := re.fullmatch(r"\*\*(.+)/\*\*", line):
            folder = heading[1]
        elif entry := re.match(r"- `([^`]+)`: \S", line):
            found.add(f"{folder}/{entry[1]}")
    return found


def test_the_map_names_every_file():
    there = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".sh", ".yaml", ".md", ".txt", ".jsonl"}
        if path.name not in TOLD_TOGETHER and "__pycache__" not in path.parts
    }
    assert mapped_files() == there


def test_commands_in_the_readme_name_files_that_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:scripts|configs|data/portrait_world)/[\w./]+\.(?:py|sh|yaml|txt)", text))
    assert len(named) > 8
    assert all((ROOT / path).is_file() for path in named), [path for path in named if not (ROOT / path).is_file()]
