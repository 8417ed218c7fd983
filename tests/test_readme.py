"""The README's map names every file, and nothing that is not there."""

import ast
import re
from pathlib import Path

from tests.helpers.paths import ROOT

FOLDERS = ("fantasytalking", "scripts", "configs", "data")
TOLD_TOGETHER = {"__init__.py"}


def mapped_files() -> dict[str, str]:
    """What the section Map says of each path: a folder in bold, then its files in backquotes at the start of items."""
    section = (ROOT / "README.md").read_text().split("\n## Map\n", 1)[1].split("\n## ", 1)[0]
    folder, found = "", {}
    for line in section.splitlines():
        if heading := re.fullmatch(r"\*\*(.+)/\*\*", line):
            folder = heading[1]
        elif entry := re.match(r"- `([^`]+)`: (\S.*)", line):
            found[f"{folder}/{entry[1]}"] = entry[2]
    return found


def own_words(path: Path) -> str:
    """A module's docstring, or the comment that a YAML file or shell script begins with, on one line."""
    text = path.read_text()
    if path.suffix == ".py":
        return " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    lines = text.removeprefix("#!/usr/bin/env bash\n").splitlines()
    comment = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:comment])


def test_the_map_names_every_file():
    there = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".sh", ".yaml", ".md", ".txt", ".jsonl"}
        if path.name not in TOLD_TOGETHER and "__pycache__" not in path.parts
    }
    assert mapped_files().keys() == there


def test_the_map_says_what_the_files_say():
    said = {path: words for path, words in mapped_files().items() if path.endswith((".py", ".yaml", ".sh"))}
    assert len(said) > 100
    for path, words in said.items():
        assert own_words(ROOT / path).startswith(words.rstrip(".")), path


def test_commands_in_the_readme_name_files_that_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:scripts|configs|data/portrait_world)/[\w./]+\.(?:py|sh|yaml|txt)", text))
    assert len(named) > 8
    assert all((ROOT / path).is_file() for path in named), [path for path in named if not (ROOT / path).is_file()]
