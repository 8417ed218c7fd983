"""MkDocs hooks that add pages made from the repository itself, so that nobody has to keep them up to date.

- modules.md: the map of the repository, from the first sentence of every module, script and configuration file.
- reference/PACKAGE.md: the docstrings of one package, one page per package.
- Every README.md that stands beside what it describes, as a page of its own; links to it are rewritten.

`python docs/generate_reference.py` prints the map.
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "fantasytalking"
READMES = {
    "data/README.md": "data-reference.md",
    "data/manifests/README.md": "data-manifests.md",
    "checkpoints/nano/README.md": "nano-model-card.md",
}
"""Files beside what they describe, and their pages on the site."""


def first_sentence(text: str) -> str:
    """First sentence of a docstring or comment on one line, without its full stop."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.])\s+(?=[A-Z])", paragraph)[0].removesuffix(".")


def description(path: Path) -> str:
    """First sentence of a module's docstring, or of the comment at the top of a YAML file or shell script."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return first_sentence(ast.get_docstring(ast.parse(text)) or "")
    lines = text.removeprefix("#!/usr/bin/env bash\n").splitlines()
    comment = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return first_sentence("\n".join(line.removeprefix("#").strip() for line in lines[:comment]))


def packages() -> list[Path]:
    """Folders of Python packages, the package itself first, from the repository's root."""
    return sorted(path.parent.relative_to(ROOT) for path in (ROOT / PACKAGE).rglob("__init__.py"))


def modules(package: Path) -> list[Path]:
    """Modules of a package, without its __init__ and its subpackages."""
    return sorted(path for path in (ROOT / package).glob("*.py") if path.name != "__init__.py")


def about(package: Path) -> list[str]:
    """Paragraph that introduces a package; empty if its __init__ says nothing."""
    sentence = description(ROOT / package / "__init__.py")
    return [f"{sentence}.", ""] if sentence else []


def reference_page(package: Path) -> str:
    """Name of a package's page: reference/data.prepare.md for fantasytalking/data/prepare."""
    return f"reference/{'.'.join(package.parts[1:]) or PACKAGE}.md"


def map_of_modules(linked: bool = False) -> str:
    """The map as Markdown: every package, script and configuration folder with its files.

    Args:
        linked: whether the packages link to their pages on the site.
    """
    lines = []
    for package in packages():
        title = f"[{package}]({reference_page(package)})" if linked else str(package)
        lines += ["", f"### {title}", "", *about(package)]
        lines += [f"- `{path.name}`: {description(path)}" for path in modules(package)]
    for folder in ("scripts", *sorted(f"configs/{path.name}" for path in (ROOT / "configs").iterdir())):
        files = sorted(path for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".sh", ".yaml"))
        lines += ["", f"### {folder}", "", *(f"- `{path.name}`: {description(path)}" for path in files)]
    return "\n".join(lines).strip() + "\n"


def reference(package: Path) -> str:
    """Page with the docstrings of a package's modules."""
    lines = [f"# {package}", "", *about(package)]
    for path in ([ROOT / package / "__init__.py"] if package.name == PACKAGE else []) + modules(package):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        lines += [f"## {path.stem}", "", f"::: {name}", "    options:", "      show_root_heading: false"]
        lines += ["      show_root_toc_entry: false", ""]
    return "\n".join(lines)


def site_links(markdown: str) -> str:
    """Links to the README files, relative to docs/, replaced by links to their pages."""
    for source, page in READMES.items():
        markdown = markdown.replace(f"](../{source})", f"]({page})").replace(f"](../{source}#", f"]({page}#")
    return markdown


def card(markdown: str) -> str:
    """A model card without its YAML header, which the hub reads and MkDocs would take for its own."""
    return re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    pages = {page: card((ROOT / source).read_text(encoding="utf-8")) for source, page in READMES.items()}
    pages["modules.md"] = f"# Modules\n\nGenerated from the docstrings.\n\n{map_of_modules(linked=True)}"
    pages |= {reference_page(package): reference(package) for package in packages()}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrites links to the README files."""
    return site_links(markdown)


if __name__ == "__main__":
    sys.stdout.write(map_of_modules())
