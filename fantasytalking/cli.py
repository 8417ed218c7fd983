"""The command line: `fantasytalking COMMAND ...`, and what the scripts in scripts/ call.

A command is imported when it is called, so that help is instant and needs none of the packages that a command needs.
"""

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import fantasytalking
from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.errors import InputError, exit_cleanly


class Command(NamedTuple):
    """An entry of the command line: a module of fantasytalking/commands with a function `main`, and a line of help."""

    module: str
    summary: str


COMMANDS = {
    "infer": Command("infer", "generate a talking video from a portrait and speech or a driving video"),
    "demo": Command("demo", "generate the demonstration video with nano"),
    "doctor": Command("doctor", "say what this machine has and lacks, and which settings fit"),
    "rehearse": Command("rehearse", "generate with random weights of true sizes, and say what it takes"),
    "preview": Command("preview", "write an animation or a contact sheet of a video"),
    "app": Command("app", "serve the web page that generates videos"),
    "prepare": Command("prepare", "turn a folder of talking videos into training features"),
    "train": Command("train", "train a stage, given by its configuration"),
    "export": Command("export", "turn a checkpoint of a training run into an adapter"),
    "report-corpus": Command("report_corpus", "write an HTML report of a prepared corpus"),
    "split-corpus": Command("split_corpus", "split a prepared corpus by person"),
    "convert": Command("convert", "convert released weights to adapters and back"),
    "estimate": Command("estimate", "estimate memory and time at full size, or count parameters"),
    "evaluate": Command("evaluate", "score finished videos against real ones"),
    "freeze-benchmark": Command("freeze_benchmark", "write the manifest of a benchmark from a local dataset"),
    "generate-benchmark": Command("generate_benchmark", "generate the video of every clip of a frozen benchmark"),
    "benchmark": Command("benchmark", "measure speed and memory"),
    "build-nano": Command("build_nano", "build nano, the miniature model, from nothing"),
    "ablation": Command("ablation", "run the paper's ablation on nano"),
    "make-portrait-world": Command("make_portrait_world", "render a corpus of talking people"),
    "make-reenactment": Command("make_reenactment", "render one clip's people performing another clip"),
    "render-cross-ground-truth": Command("render_cross_ground_truth", "render the true videos of cross-reenactment"),
}
USAGE = "usage: fantasytalking COMMAND ...    (fantasytalking COMMAND --help lists the options of a command)"


def main() -> None:
    """Entry point of the console command and of `python -m fantasytalking`."""
    exit_cleanly(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> None:
    """Runs the command that `arguments` begin with.

    Raises:
        InputError: there is no such command; the message names the nearest one.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
    elif name == "--version":
        sys.stdout.write(f"fantasytalking {fantasytalking.__version__}\n")
    else:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f" did you mean '{near[0]}'?" if near else ""
            raise InputError(f"there is no command '{name}';{meant} fantasytalking --help lists the commands")
        main_of(name)(rest, Invocation.of_command(name))


def run_script(name: str, **options: Any) -> None:
    """Runs a command for the script in scripts/ that was started; `options` are passed to the command's `main`."""
    exit_cleanly(lambda: main_of(name)(sys.argv[1:], Invocation.of_script(Path(sys.argv[0]).name), **options))


def main_of(name: str) -> Callable[..., None]:
    """Returns the function `main(arguments, invocation)` of a command."""
    main_function: Callable[..., None] = import_module(f"fantasytalking.commands.{COMMANDS[name].module}").main
    return main_function


def overview() -> str:
    """Returns the help of the whole command line: every command in a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([USAGE, "", *lines, "", f"  {'--version':{width}}  print the version", ""])
