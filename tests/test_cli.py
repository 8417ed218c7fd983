"""The command line: help without the heavy packages, one line for a mistake, and a script for each command."""

import argparse
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fantasytalking
from fantasytalking.cli import COMMANDS, main_of, overview, run
from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.command_parser import CommandParser
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.models.presets import model_presets

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "omegaconf", "diffusers", "transformers", "cv2", "gradio")
DOORS = {
    "ablation": "ablation",
    "app": "app",
    "benchmark": "benchmark",
    "build_nano": "build-nano",
    "convert_official": "convert",
    "count_parameters": "estimate",
    "evaluate": "evaluate",
    "generate_benchmark": "generate-benchmark",
    "infer": "infer",
    "make_benchmark": "freeze-benchmark",
    "make_crossed": "render-cross-ground-truth",
    "make_portrait_world": "make-portrait-world",
    "make_reenactment": "make-reenactment",
    "plan": "estimate",
    "prepare_data": "prepare",
    "preview": "preview",
    "train_portrait": "train",
    "train_stage1": "train",
    "train_stage2": "train",
    "train_stage3": "train",
}


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fantasytalking", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("infr",)])
def test_help_version_and_mistakes_import_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path):
    program = (
        f"import sys\nsys.argv[1:] = {arguments!r}\nfrom fantasytalking.cli import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules], sorted(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)


def test_help_lists_every_command_in_a_line(tmp_path: Path):
    ended = call("--help", folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, overview(), "")
    assert call(folder=tmp_path).stdout == overview()
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", ended.stdout, re.MULTILINE)
    assert all(len(line) <= 100 for line in ended.stdout.splitlines())


def test_version(tmp_path: Path):
    assert call("--version", folder=tmp_path).stdout == f"fantasytalking {fantasytalking.__version__}\n"


def test_an_unknown_command_is_one_line_with_the_nearest(tmp_path: Path):
    ended = call("freeze-benchmrk", "--help", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "error: there is no command 'freeze-benchmrk'; did you mean 'freeze-benchmark'? "
        "fantasytalking --help lists the commands\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_parser_of_each_command_is_built_and_shows_the_call(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        run([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert shown.startswith(f"usage: fantasytalking {name} ")
    assert f"\n    fantasytalking {name}" in shown or f"\nfantasytalking {name}" in shown, "an example"
    assert ".py" not in shown.replace("fantasytalking/inference/config.py", "")
    assert not re.search(r"[{}]", re.sub(r"\{[\w.,-]+\}", "", shown)), "every placeholder is replaced"


def test_there_is_a_door_for_every_command_and_no_other_script():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"uv_install"}
    assert scripts == DOORS.keys()
    without = {
        "demo",
        "doctor",
        "export",
        "rehearse",
        "report-corpus",
        "split-corpus",
    }  # demo.sh is the demonstration's; the others have no script
    assert set(DOORS.values()) == COMMANDS.keys() - without


@pytest.mark.parametrize("script", DOORS)
def test_a_script_is_the_same_command_under_its_own_name(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = ROOT / "scripts" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert shown.startswith(f"usage: {script}.py ")
    assert f"scripts/{script}.py" in shown
    if script.startswith("train_"):
        assert f"default: configs/nano/{script.removeprefix('train_')}.yaml" in shown


def test_train_needs_a_stage():
    with pytest.raises(InputError, match=r"--config is missing; give the YAML of a stage, as in --config configs/nano"):
        run(["train"])


def test_parameters_are_counted(capsys: pytest.CaptureFixture[str]):
    main_of("estimate")(["--parameters"], Invocation.of_command("estimate"))
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["| preset", "|---|---|---|---|---|---|---|---|", *(f"| {preset}" for preset in model_presets())]


class _Built(Exception):  # noqa: N818  (not an error)
    """Carries the parser of a command, in place of running the command."""


def parser_of(start: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> CommandParser:
    def stop(parser: CommandParser, *_: object) -> None:
        raise _Built(parser)

    monkeypatch.setattr(CommandParser, "parse_known_args", stop)
    with pytest.raises(_Built) as built:
        start()
    parser: CommandParser = built.value.args[0]
    return parser


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_that_states_its_default(name: str, monkeypatch: pytest.MonkeyPatch):
    parser = parser_of(lambda: run([name]), monkeypatch)
    shown = " ".join(parser.format_help().split())
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    for action in actions:
        assert action.help, f"{name}: {action.option_strings or action.dest} has no help"
        if action.option_strings and action.nargs != 0 and not action.required:
            text = " ".join(parser._get_formatter()._expand_help(action).split())
            assert text in shown
            assert "default" in text or "required" in text, f"{name} {action.option_strings[0]}: {text}"


@pytest.mark.parametrize("script", DOORS)
def test_unknown_options_are_refused_in_one_line(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = ROOT / "scripts" / f"{script}.py"
    required = {
        "make_benchmark": ["--benchmark=hdtf", "--references=x", "--output=x"],
        "generate_benchmark": ["--manifest=x", "--references=x", "--output=x"],
        "prepare_data": ["--input=x", "--output=x"],
        "preview": ["--input=x", "--output=x"],
        "convert_official": ["in", "out"],
        "make_portrait_world": ["--identities=0-1", "--sentences=x", "--output=x"],
        "make_reenactment": ["--portrait=x", "--driver=x", "--output=x"],
        "make_crossed": ["--references=x"],
    }
    monkeypatch.setattr(sys, "argv", [str(path), *required.get(script, []), "--bogus"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out) == (2, "")
    assert captured.err == "error: unrecognized arguments: --bogus; --help lists all options\n"


def test_the_help_of_infer_shows_the_defaults_of_its_configuration(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        run(["infer", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    config = load_config(InferConfig, preset_path("nano", "infer"))
    for part in (
        f"denoising steps (default: {config.num_inference_steps})",
        f"scale of audio guidance at every step (default: {config.guidance.audio.scale_end:g})",
        f"for Wan 2.1 multiples of 16 (default: {config.sizes[0]})",
        f"seed of the noise (default: {config.seed})",
        f"frames per second (default: {config.fps:g})",
        f"description of the video (default: {config.prompt})",
    ):
        assert part in shown


def test_readers_and_disks_that_stop_taking_output_are_no_traceback(tmp_path: Path):
    command = f"{sys.executable} -m fantasytalking --help"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    closed = f"{command} >&- ; ( sleep 0.3; {command}; echo $? >{tmp_path}/code ) | true; {command} >/dev/full"
    ended = subprocess.run(["bash", "-c", closed], env=environment, capture_output=True, text=True, check=False)
    assert (tmp_path / "code").read_text() == "141\n"
    assert ended.stderr == "error: No space left on device; free some disk space, or choose another folder\n"
    assert ended.returncode == 2
