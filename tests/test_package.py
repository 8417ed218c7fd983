"""The wheel: built, installed into a fresh environment, and used in an empty folder, far from the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fantasytalking

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its dependencies are those of this one, which it reads from where they are."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "bin" / "python"),
        "install",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def call(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment in `folder`."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [str(environment / "bin" / command[0]), *command[1:]]
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def succeed(environment: Path, folder: Path, *command: str) -> str:
    ended = call(environment, folder, *command)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    return ended.stdout


def test_the_wheel_has_the_package_its_data_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("fantasytalking/") for name in names if name.startswith("fantasytalking/")}
    modules = {path.relative_to(ROOT / "fantasytalking") for path in (ROOT / "fantasytalking").rglob("*.py")}
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {str(path) for path in modules} <= inside
    assert {f"resources/{path}" for path in configs} <= inside
    assert {"py.typed", "resources/data/demo/portrait.png", "resources/data/manifests/hdtf.jsonl"} <= inside
    assert {name.split("/")[0] for name in names} == {
        "fantasytalking",
        f"fantasytalking-{fantasytalking.__version__}.dist-info",
    }
    assert wheel.stat().st_size < 4 << 20, "weights are no part of it"


def test_help_is_there_in_an_empty_folder(environment: Path, tmp_path: Path):
    assert (
        succeed(environment, tmp_path, "fantasytalking", "--version")
        == f"fantasytalking {fantasytalking.__version__}\n"
    )
    assert "--image" in succeed(environment, tmp_path, "fantasytalking", "infer", "--help")


def test_a_preset_becomes_a_model(environment: Path, tmp_path: Path):
    program = (
        "from fantasytalking.common.resources import IS_INSTALLED\n"
        "from fantasytalking.models.presets import build_meta_transformer, load_model_config\n"
        "model = build_meta_transformer(load_model_config('wan14b'))\n"
        "print(IS_INSTALLED, sum(parameter.numel() for parameter in model.parameters()) > 14e9)"
    )
    assert succeed(environment, tmp_path, "python", "-c", program) == "True True\n"


def test_configurations_are_found_and_a_missing_nano_is_told_in_a_line(environment: Path, tmp_path: Path):
    plan = succeed(
        environment, tmp_path, "fantasytalking", "train", "--config", "configs/wan14b/stage1.yaml", "--dry-run"
    )
    assert "alignment: clip" in plan
    ended = call(environment, tmp_path, "fantasytalking", "demo")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "checkpoints/nano" in ended.stderr and "fantasytalking build-nano" in ended.stderr
    ended = call(environment, tmp_path, "fantasytalking", "infer", "--config", "configs/nano/infr.yaml")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "'configs/nano/infr.yaml' does not exist" in ended.stderr


def test_two_clips_are_rendered_frozen_and_evaluated(environment: Path, tmp_path: Path):
    (tmp_path / "lines.txt").write_text("A short line.\n")
    made = ["--identities", "1000-1001", "--sentences", "lines.txt", "--output", "world", "--size", "96"]
    succeed(environment, tmp_path, "fantasytalking", "make-portrait-world", *made)
    frozen = ["--benchmark", "portrait_world", "--references", "world"]
    succeed(environment, tmp_path, "fantasytalking", "freeze-benchmark", *frozen, "--output", "frozen.json")
    scored = [*frozen, "--manifest", "frozen.json", "--predictions", "world", "--metrics", "psnr", "--output", "scores"]
    assert "results.json" in succeed(environment, tmp_path, "fantasytalking", "evaluate", *scored)
    assert (tmp_path / "scores" / "index.html").is_file()
