"""scripts/demo.sh in a copy of the project, with a tiny pipeline where nano belongs."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from fantasytalking.media import probe, read_image
from tests.helpers.paths import ROOT

STAMPED = ("pyproject.toml", "constraints.txt", "scripts/setup.sh")
NEEDED = ("pyproject.toml", "constraints.txt", "scripts", "data/demo")


@pytest.fixture
def clone(tmp_path: Path, saved: Path) -> Path:
    """With this project's environment, so that nothing is installed."""
    stamp = ROOT / ".venv" / ".installed"
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in STAMPED)).hexdigest()
    if not stamp.is_file() or stamp.read_text().strip() != wanted:
        pytest.skip("scripts/setup.sh has not made this environment from these files")
    for name in NEEDED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(saved, tmp_path / "checkpoints" / "nano")
    return tmp_path


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / "scripts" / "demo.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)


@pytest.mark.slow
def test_the_demonstration_ends_with_a_video_and_its_contact_sheet(clone: Path):
    ended = demo(clone)
    assert ended.returncode == 0, ended.stderr
    assert "outputs/demo.mp4" in ended.stdout.splitlines()[-1]
    assert sorted(path.name for path in (clone / "outputs").iterdir()) == ["demo.json", "demo.mp4", "demo.png"]
    info = probe(clone / "outputs" / "demo.mp4")
    assert (info.fps, info.has_audio) == (25, True)
    assert info.duration == pytest.approx(3.2, abs=0.1)
    assert read_image(clone / "outputs" / "demo.png").ndim == 3


def test_an_option_is_refused_in_one_line(clone: Path):
    ended = demo(clone, "--motion")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "'--motion'" in ended.stderr and "infer.py" in ended.stderr


def test_a_missing_nano_is_told_before_anything_is_installed(clone: Path):
    shutil.rmtree(clone / "checkpoints")
    (clone / ".venv").unlink()
    ended = demo(clone)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "git checkout checkpoints/nano" in ended.stderr
    assert not (clone / ".venv").exists() and not (clone / "outputs").exists()
