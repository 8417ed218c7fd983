"""Runs `uv pip install` with pip's own configuration, which uv does not read: uv_install.py UV ARGUMENT ...

Takes over index-url, extra-index-url, find-links, no-index, constraint, trusted-host and cert from pip's configuration
files and the PIP_* variables. A setting whose own uv variable (such as UV_FIND_LINKS) is set is left to that variable.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

OPTIONS = {
    "index-url": ("--default-index", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    "extra-index-url": ("--index", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    "find-links": ("--find-links", ("UV_FIND_LINKS",)),
    "constraint": ("--constraints", ("UV_CONSTRAINT",)),
    "trusted-host": ("--allow-insecure-host", ("UV_INSECURE_HOST",)),
}
"""pip's settings, each with uv's option, which is given once per value, and the variables that replace it."""
SECTIONS = ("global", "install", ":env:")
"""Sections of pip's configuration, the one that takes precedence last."""


def pip_settings(listing: str) -> dict[str, str]:
    """Reads the output of `pip config list`, whose lines are of the form section.name='value'."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, name = key.partition(".")
        if separator and section in found:
            found[section][name] = ast.literal_eval(value)
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def uv_options(settings: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Returns the options of `uv pip install` that stand for pip's `settings`."""
    options: list[str] = []
    for name, (option, variables) in OPTIONS.items():
        if not any(variable in environment for variable in variables):
            options += [word for value in settings.get(name, "").split() for word in (option, value)]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if "--index" in options and "UV_INDEX_STRATEGY" not in environment:
        # pip compares the versions of all indexes; uv by default stops at the first index that has the package.
        options += ["--index-strategy", "unsafe-best-match"]
    return options


def main() -> None:
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # an environment may lack pip
    settings, environment = pip_settings(listed.stdout), dict(os.environ)
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"])
    uv, *arguments = sys.argv[1:]
    options = ["--quiet", "--python", sys.executable, *uv_options(settings, environment)]
    os.execvpe(uv, [uv, "pip", "install", *options, *arguments], environment)


if __name__ == "__main__":
    main()
