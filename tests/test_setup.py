"""scripts/setup.sh: what it says when the machine lacks something, and the options that it passes on to uv."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAMPED = ("pyproject.toml", "constraints.txt", "scripts/setup.sh")


@pytest.fixture(scope="module")
def uv_install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("uv_install", ROOT / "scripts" / "uv_install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that setup.sh reads, without an environment."""
    for name in (*STAMPED, "scripts/uv_install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def setup(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(clone / "scripts" / "setup.sh")]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)


def fake_python(clone: Path, body: str) -> None:
    """Puts a shell script in the place of the environment's interpreter, with a stamp that says all is installed."""
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/usr/bin/env bash\n{body}\n")
    python.chmod(0o755)
    digest = hashlib.sha256(b"".join((clone / name).read_bytes() for name in STAMPED)).hexdigest()
    (clone / ".venv" / ".installed").write_text(digest + "\n")


def test_a_missing_python_is_named_with_its_cure(clone: Path):
    ended = setup(clone, PYTHON="no-such-python")
    assert ended.returncode == 2
    assert "no Python 3.11 or 3.12 under the names tried: no-such-python" in ended.stderr
    assert "apt-get install python3 python3-venv" in ended.stderr and "PYTHON=/path/to/python" in ended.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_is_named_with_its_cure(clone: Path):
    python = clone / "python-without-venv"
    python.write_text('#!/usr/bin/env bash\n[ "$1" = -c ]\n')  # its version is right, anything else fails
    python.chmod(0o755)
    ended = setup(clone, PYTHON=str(python))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "-m venv' failed" in ended.stderr and "apt-get install python3-venv" in ended.stderr


def test_a_missing_system_library_is_named_with_its_cure(clone: Path):
    fake_python(clone, 'echo "ImportError: libGL.so.1: cannot open shared object file"; exit 1')
    ended = setup(clone)
    assert ended.returncode == 2
    assert "OpenCV misses a system library: libGL.so.1" in ended.stderr
    assert "apt-get install libgl1 libglib2.0-0" in ended.stderr


def test_a_finished_environment_is_left_alone_in_silence(clone: Path):
    fake_python(clone, "exit 0")
    ended = setup(clone)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_an_unknown_installer_is_refused(clone: Path):
    ended = setup(clone, INSTALLER="conda")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "INSTALLER is 'conda'; it must be uv or pip" in ended.stderr


LISTING = """:env:.cert='/etc/ssl/ca.pem'
:env:.find-links='/wheels'
freeze.all='true'
global.constraint='a.txt b.txt'
global.extra-index-url='https://one/simple https://two/simple'
global.find-links='/elsewhere'
global.timeout='60'
install.index-url='https://mirror/simple'
"""


def test_pip_s_configuration_becomes_uv_s_options(uv_install: ModuleType):
    settings = uv_install.pip_settings(LISTING)
    assert settings["find-links"] == "/wheels", "a variable takes precedence over a file"
    assert settings["cert"] == "/etc/ssl/ca.pem"
    options = uv_install.uv_options(settings, {})
    assert " ".join(options) == (
        "--default-index https://mirror/simple --index https://one/simple --index https://two/simple "
        "--find-links /wheels --constraints a.txt --constraints b.txt --index-strategy unsafe-best-match"
    )


def test_uv_s_own_variables_take_precedence(uv_install: ModuleType):
    settings = uv_install.pip_settings(LISTING)
    environment = dict.fromkeys(("UV_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS", "UV_CONSTRAINT"), "mine")
    assert uv_install.uv_options(settings, environment) == []
    assert uv_install.uv_options(uv_install.pip_settings("global.no-index='true'"), {}) == ["--no-index"]
    assert uv_install.uv_options(uv_install.pip_settings(""), {}) == []
