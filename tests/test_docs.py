"""README.md, docs/ and the READMEs of data/: every command is parsed by its real parser, every file and link exists.

Keys and options of earlier releases still work, each with a warning. The documentation must not use them.
"""

import argparse
import ast
import importlib
import importlib.util
import inspect
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest

from fantasytalking.cli import COMMANDS as PROGRAM
from fantasytalking.cli import run
from fantasytalking.common import config_aliases
from fantasytalking.common.config import load_config, preset_path
from tests.helpers.paths import ROOT
from tests.test_architecture import ROOMS

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data/README.md",
    ROOT / "data/manifests/README.md",
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
OURS = ("fantasytalking ", "python scripts/", "python docs/", "accelerate launch ", "torchrun ", "bash scripts/")
"""How inline code begins that is a command of this project."""
OTHERS = {
    *(".", "cp", "curl", "export", "ffmpeg", "ffplay", "git", "head"),
    *("hf", "mkdir", "mkdocs", "mypy", "pip", "ruff", "unzip"),
}
"""Commands of others, which are not parsed."""
WITHOUT_OPTIONS = {
    "docs/generate_reference.py",
    "docs/make_formats.py",
    "docs/make_limits.py",
    "docs/make_preview.py",
}
FILE_SUFFIXES = (".md", ".yaml", ".json", ".jsonl", ".py", ".safetensors", ".mp4", ".txt")
WITHOUT_ARGUMENTS = {"ablation", "app", "build-nano", "demo", "estimate"}
"""Commands that run without arguments; the bare name of another one is only a name."""
SHELL_SCRIPTS = {"scripts/demo.sh", "scripts/setup.sh", "scripts/test.sh"}


class Command(NamedTuple):
    """A command of a page."""

    page: str
    text: str


def without_blocks(text: str) -> str:
    return FENCE.sub("", text)


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands_of(path: Path) -> Iterator[Command]:
    """Commands of the bash blocks and of the inline code."""
    name = str(path.relative_to(ROOT))
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in split_line(line):
                yield Command(name, part)
    for code in INLINE.findall(without_blocks(path.read_text(encoding="utf-8"))):
        text = " ".join(code.split())
        if text.startswith(OURS):
            yield Command(name, text)


def split_line(line: str) -> list[str]:
    """The simple commands of a line, without comments, pipes and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#" if line.lstrip().startswith("#") or " #" in line else ""
    parts: list[list[str]] = [[]]
    tokens = iter(lexer)
    for token in tokens:
        if token in ("|", "&&", ";"):
            parts.append([])
        elif token in (">", "<"):
            next(tokens)
        else:
            parts[-1].append(token)
    return [shlex.join(part) for part in parts if part]


COMMANDS = sorted({command for path in PAGES for command in commands_of(path)})


class ParsedError(Exception):
    """Carries what a command's parser made of its arguments, in place of running the command."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__()
        self.given = given


def parse_program(start: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Starts a command of the project, stops it after its parser, and returns the parsed arguments."""

    def stopping(name: str) -> Callable[..., Any]:
        real = getattr(argparse.ArgumentParser, name)

        def parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
            raise ParsedError(real(parser, args, namespace))

        return parse

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(name))
    try:
        with pytest.raises(ParsedError) as stopped:
            start()
    finally:
        monkeypatch.undo()
    return stopped.value.given


def parse_script(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return parse_program(lambda: runpy.run_path(str(ROOT / script), run_name="__main__"), monkeypatch)


@contextmanager
def no_old_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a name of an earlier release is used: where anything warns that it was renamed."""
    from fantasytalking.inference import arguments

    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Collect(logging.WARNING)
    logger = logging.getLogger("fantasytalking")
    config_aliases._warn_once.cache_clear()
    logger.addHandler(handler)
    with monkeypatch.context() as patched:
        patched.setattr(arguments, "notify", found.append)
        try:
            yield
        finally:
            logger.removeHandler(handler)
    assert [message for message in found if "was renamed to" in message] == []


def schemas() -> dict[str, tuple[type, str, str]]:
    """Configuration of every command that takes key=value, and its default: preset and name."""
    from fantasytalking.data.prepare.config import PreparationConfig
    from fantasytalking.inference.config import InferConfig
    from fantasytalking.nano.ablation.config import AblationConfig
    from fantasytalking.nano.config import BuildConfig
    from fantasytalking.training.config import TrainConfig

    return {
        **dict.fromkeys(("infer", "demo", "app", "generate-benchmark"), (InferConfig, "nano", "infer")),
        "prepare": (PreparationConfig, "nano", "data"),
        "ablation": (AblationConfig, "nano", "ablation"),
        "build-nano": (BuildConfig, "nano", "build"),
        **{stage: (TrainConfig, "nano", stage) for stage in ("stage1", "stage2", "stage3", "portrait")},
    }


SCRIPTS = {
    "generate_benchmark": "generate-benchmark",
    "prepare_data": "prepare",
    "build_nano": "build-nano",
    "make_benchmark": "freeze-benchmark",
    **{f"train_{stage}": stage for stage in ("stage1", "stage2", "stage3", "portrait")},
}
"""Commands (of training: its stage) by the name of their script, where the two differ."""


def check_settings(name: str, given: argparse.Namespace) -> None:
    """Loads the configuration that a command names, with its key=value settings."""
    known = schemas()
    if name == "train":
        assert given.config is not None, "the stage is given by --config"
        name = "stage1"
    if name in known:
        schema, preset, file = known[name]
        load_config(schema, getattr(given, "config", None) or preset_path(preset, file), given.overrides)
    elif name in ("freeze-benchmark", "evaluate") and given.benchmark and given.overrides:
        from fantasytalking.evaluation.benchmark.config import BenchmarkConfig

        load_config(BenchmarkConfig, preset_path("benchmarks", given.benchmark), given.overrides)
    else:
        assert not getattr(given, "overrides", None), f"{name} takes settings, and this test does not know of which"


def check_command(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses one command as it would be parsed when run; names of earlier releases are mistakes."""
    tokens = shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", text))  # the shell's variables stand for numbers
    while tokens and re.fullmatch(r"[A-Z_]+=\S*", tokens[0]):  # environment variables
        tokens = tokens[1:]
    match tokens:
        case [] | [("for" | "do" | "done"), *_]:
            return
        case ["accelerate", "launch", *rest]:
            from accelerate.commands.launch import launch_command_parser

            given = launch_command_parser().parse_args(rest)
            if given.config_file is not None:
                assert (ROOT / given.config_file).is_file(), given.config_file
            check_command(launched(given), monkeypatch)
        case ["torchrun", *rest]:
            from torch.distributed.run import get_args_parser

            given = get_args_parser().parse_args(rest)
            check_command(launched(given), monkeypatch)
        case ["srun", *options, "bash", "-c", inner]:
            assert all(option.startswith("--") for option in options)
            check_command(inner, monkeypatch)
        case ["bash", script, *arguments]:
            assert script in SHELL_SCRIPTS and (ROOT / script).is_file()
            assert all((ROOT / path).exists() for path in arguments if path.startswith("tests/")), arguments
        case ["python", script, *arguments] if script in WITHOUT_OPTIONS:
            assert (ROOT / script).is_file() and not arguments
        case ["python", script, *arguments]:
            with no_old_names(monkeypatch):
                given = parse_script(script, arguments, monkeypatch)
                check_settings(SCRIPTS.get(Path(script).stem, Path(script).stem), given)
        case ["fantasytalking", "--help" | "--version"]:
            return
        case ["fantasytalking", name] | ["fantasytalking", name, "--help"] if name not in WITHOUT_ARGUMENTS:
            assert name in PROGRAM
        case ["fantasytalking", *arguments]:
            with no_old_names(monkeypatch):
                check_settings(arguments[0], parse_program(lambda: run(arguments), monkeypatch))
        case [program, *_]:
            assert program in OTHERS, f"'{program}' is not a known command"


def launched(given: argparse.Namespace) -> str:
    """The command that accelerate or torchrun starts in every process."""
    start = [] if given.module else ["python"]
    return shlex.join([*start, given.training_script, *given.training_script_args])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text[:80]}")
def test_a_command_parses(command: Command, monkeypatch: pytest.MonkeyPatch):
    check_command(command.text, monkeypatch)


def test_a_wrong_command_does_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for text in (
        "python scripts/infer.py --imag portrait.png",
        "python scripts/evaluate.py --benchmark no_such_benchmark",
        "accelerate launch --no_such_option scripts/train_stage1.py",
        "python scripts/infer.py no_such_setting=1",
        "python scripts/infer.py --image portrait.png --audio speech.wav --steps 10",
        "python scripts/infer.py --image portrait.png --audio speech.wav steps=10",
        "fantasytalking infer --imag portrait.png",
        "fantasytalking demo steps=10",
        "fantasytalking no-such-command",
        "accelerate launch -m fantasytalking train --config configs/nano/stage1.yaml batch=2",
        "no_such_command",
    ):
        with pytest.raises((SystemExit, AssertionError, ValueError)):
            check_command(text, monkeypatch)
        monkeypatch.undo()
    capsys.readouterr()


def test_there_are_commands():
    assert len(COMMANDS) > 60


def setting_names(schema: Any) -> set[str]:
    """Dotted names of all settings of a configuration, groups included."""
    if not is_dataclass(schema):
        optional = next((kind for kind in get_args(schema) if is_dataclass(kind)), None)
        return set() if optional is None else setting_names(optional)
    hints = get_type_hints(schema)
    names = {field.name for field in fields(schema)}
    return names | {f"{name}.{inner}" for name in names for inner in setting_names(hints[name])}


def all_setting_names() -> set[str]:
    """Dotted names of the settings of all configurations."""
    from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
    from fantasytalking.models.presets import ModelConfig

    schemas_of_all = {schema for schema, _, _ in schemas().values()} | {BenchmarkConfig, ModelConfig}
    return set().union(*(setting_names(schema) for schema in schemas_of_all))


def test_settings_in_the_text_exist():
    known = all_setting_names()
    groups = {name.partition(".")[0] for name in known if "." in name}
    missing, count = [], 0
    for path in PAGES:
        for code in INLINE.findall(without_blocks(path.read_text(encoding="utf-8"))):
            for word in code.replace("'", "").split():
                found = re.fullmatch(r"([a-z][a-z_0-9.]*)(?:[=:].*)?", word)
                name = found[1] if found else ""
                is_setting = "=" in word or ("." in name and name.partition(".")[0] in groups)
                if not name or not is_setting or name == "key" or name.endswith(FILE_SUFFIXES):
                    continue
                count += 1
                if name not in known:
                    missing.append((path.name, code))
    assert missing == []
    assert count > 60


OTHER_MEANINGS = {"clips", "crop", "end", "face", "seconds", "start", "surplus", "train", "training"}
"""Words with a meaning besides that of a former setting: keys of files, names of commands, rooms and values."""


def test_no_setting_is_called_by_its_old_name():
    leaves = {name.rpartition(".")[2] for name in all_setting_names()}
    old = {name for names in config_aliases.RENAMED_KEYS.values() for name in names} - leaves
    assert len(old) > 60
    found = []
    for path in PAGES:
        for code in INLINE.findall(without_blocks(path.read_text(encoding="utf-8"))):
            key, is_setting, _ = code.partition("=")
            name = key.rpartition(".")[2]
            if name in old and (is_setting or name not in OTHER_MEANINGS):
                found.append((path.name, code))
    assert found == []


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings."""
    found = re.findall(r"^#{1,6} (.+)$", without_blocks(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


LINKS = sorted(
    {
        (str(path.relative_to(ROOT)), target)
        for path in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
        if not target.startswith(("https://", "http://"))
    }
)
GENERATED = {"docs/modules.md"}
"""Pages that exist on the site alone."""


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_somewhere(page: str, target: str):
    place, _, anchor = target.partition("#")
    path = (ROOT / page).parent / place if place else ROOT / page
    if os.path.relpath(path, ROOT) in GENERATED:
        return
    assert path.is_file(), target
    assert not anchor or anchor in headings(path), target


def test_named_files_exist():
    named = {
        match
        for path in PAGES
        for match in re.findall(
            r"(?<![\w/.])(?:scripts|configs|tests|docs|examples|fantasytalking|checkpoints/nano|data/(?:demo|manifests|"
            r"portrait_world))/[\w./-]+\.(?:py|sh|yaml|txt|md|png|wav|jpg|webp|ipynb|jsonl|json|onnx)\b",
            path.read_text(encoding="utf-8"),
        )
    }
    assert len(named) > 40
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_begins_with_what_users_want():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    ends = {line: number for number, line in enumerate(lines) if line.startswith("## ")}
    wanted = ["## See it run", "## Run the 14B model", "## Train on your own clips", "## Evaluate on HDTF"]
    order = list(ends)
    assert order[:4] == wanted
    assert ends[order[4]] <= 150, "the last of them ends where the next heading begins"


def test_the_table_of_metrics_is_complete():
    from fantasytalking.evaluation.registry import METRICS

    section = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8").split("## Metrics\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in INLINE.findall(row)} == set(METRICS)


PYTHON = [(str(path.relative_to(ROOT)), code) for path in PAGES for code in blocks(path, "python")]


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_imports_what_exists(page: str, code: str):
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        assert node.module is not None
        module = importlib.import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the repository, in which commands may write."""
    for name in ("scripts", "configs", "data", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run_block(folder: Path, block: str) -> str:
    """Runs a block's commands as a user would, and returns what they print."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def block_with(page: str, words: str) -> str:
    """The only bash block of a page that contains the words."""
    (block,) = [block for block in blocks(ROOT / page, "bash") if words in block]
    return block


def test_python_passes_arguments_that_exist():
    """Keyword arguments of the calls of a pipeline, and of the classes that the examples import."""
    from fantasytalking.pipeline import FantasyTalkingPipeline

    count = 0
    for page, code in PYTHON:
        tree = ast.parse(code)
        imported = {
            alias.name: getattr(importlib.import_module(node.module), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        callables = {**imported, "pipe": FantasyTalkingPipeline.__call__, "pipe.stream": FantasyTalkingPipeline.stream}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = callables.get(ast.unparse(call.func))
            if function is None or not call.keywords:
                continue
            known = inspect.signature(function).parameters
            assert [word.arg for word in call.keywords if word.arg not in known] == [], f"{page}: {ast.unparse(call)}"
            count += 1
    assert count > 3


def test_the_rooms_are_described_in_their_order():
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Packages\n")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    described = [name for cell in cells for name in INLINE.findall(cell)]
    assert described == [room for room in reversed(ROOMS) if not room.startswith("__")]


@pytest.mark.slow
def test_the_python_of_the_readme_makes_a_video(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(checkout)
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert (checkout / "outputs/talk.mp4").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_evaluation_without_a_data_set_runs(checkout: Path):
    run_block(checkout, block_with("docs/evaluation.md", "--output outputs/try/held_out.json"))
    assert (checkout / "outputs/try/report/index.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_path_from_videos_to_an_adapter_runs(checkout: Path):
    run_block(checkout, block_with("docs/training.md", "outputs/try/stage2/adapter"))
    assert (checkout / "outputs/try/stage2/adapter/adapter.safetensors").is_file()
    assert (checkout / "outputs/portrait_speech.mp4").is_file()


def reference_script() -> Any:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs/generate_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_script_and_configuration_describes_itself():
    lines = [line for line in reference_script().map_of_modules().splitlines() if line.startswith("- ")]
    assert len(lines) > 300
    assert [line for line in lines if not re.fullmatch(r"- `[\w.]+`: \S.*", line)] == []


def test_the_first_sentence_ends_at_a_full_stop():
    first = reference_script().first_sentence
    assert first("One thing: a, b (v. 2 of it). Another.\n\nMore.") == "One thing: a, b (v. 2 of it)"
    assert first("No stop here\nat all") == "No stop here at all"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "modules.html").is_file()
