"""What scripts/evaluate.py and scripts/make_benchmark.py do with their command lines."""

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.common.resumable_tasks import Processes
from fantasytalking.evaluation.benchmark.config import REENACTED, BenchmarkConfig
from fantasytalking.evaluation.benchmark.freeze import freeze
from fantasytalking.evaluation.benchmark.freeze_reenactment import freeze_reenactment
from fantasytalking.evaluation.benchmark.prediction_pairing import pair_up
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.registry import METRICS, Skipped, choose, is_suitable, suitable
from fantasytalking.evaluation.report.comparison_table import compare_results, comparison_table, load_alike, write_table
from fantasytalking.evaluation.report.frame_sheets import make_sheets
from fantasytalking.evaluation.report.html import write_page
from fantasytalking.evaluation.report.markdown import facts, write_csv, write_markdown
from fantasytalking.evaluation.report.results import Results, collect
from fantasytalking.evaluation.runner import PROTOCOL, Run, measure_all

BENCHMARKS = ("hdtf", "mead", "celebvhq", "portrait_world", "exprbench", "exprbench_world")
MOST_PROCESSES = 256


def parse(arguments: Sequence[str], description: str | None) -> argparse.Namespace:
    """The command line of scripts/evaluate.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=BENCHMARKS)
    parser.add_argument("--references", type=Path, help="folder of the real videos, as the data set lays them out")
    parser.add_argument("--predictions", type=Path, help="folder of finished videos: NAME.mp4 or NAME/video.mp4")
    parser.add_argument("--manifest", type=Path, help="made by make_benchmark.py; default: made from --references now")
    parser.add_argument("--weights", type=Path, help="folder of weights; metrics without theirs are skipped")
    parser.add_argument("--metrics", type=_names, help=f"of {', '.join(METRICS)}; default: all")
    parser.add_argument("--require", type=_names, default=[], metavar="METRICS", help="not to be skipped")
    parser.add_argument("--reuse", type=Path, help="output of an earlier run: its measurements of the references serve")
    parser.add_argument("--processes", type=int, default=1, help="on this machine and, under accelerate, in each rank")
    parser.add_argument("--name", help="of this run in tables; default: the output folder's")
    parser.add_argument("--output", type=Path, help="folder for results.json, .csv, .md, index.html and the records")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar="RESULTS", help="paired tests between two results.json"
    )
    parser.add_argument("--table", type=Path, nargs="+", metavar="RESULTS", help="several results.json as one table")
    parser.add_argument("--title", default="Comparison", help="of that table")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the benchmark, as in clips=20")
    return parser.parse_intermixed_args(arguments)


def run(arguments: argparse.Namespace) -> str:
    """Does what was asked for; gives what is to be printed, nothing on ranks other than the first.

    Raises:
        InputError: anything that cannot be used.
    """
    if arguments.compare:
        first, second = arguments.compare
        compared = compare_results(first, second)
        return comparison_table(Results.load(first).name, Results.load(second).name, compared)
    if arguments.table:
        _needed(arguments, "output")
        write_table(load_alike(arguments.table), arguments.output, arguments.title, arguments.metrics)
        return f"'{arguments.output / 'table.html'}' and table.md"
    return _evaluate(arguments)


def frozen(benchmark: str, references: Path, overrides: Sequence[str]) -> Protocol:
    """The protocol of a local copy under configs/evaluation/BENCHMARK.yaml and overrides."""
    config = load_config(BenchmarkConfig, preset_path("evaluation", benchmark), overrides)
    return (freeze_reenactment if config.layout in REENACTED else freeze)(benchmark, references, config)


def _evaluate(arguments: argparse.Namespace) -> str:
    _needed(arguments, "benchmark", "references", "predictions", "output")
    if not 1 <= arguments.processes <= MOST_PROCESSES:
        raise InputError(f"--processes is {arguments.processes}; give 1 to {MOST_PROCESSES}")
    names, skipped = choose(arguments.metrics, arguments.weights, arguments.require)
    state = _state()
    try:
        return _evaluate_among(arguments, names, skipped, state)
    finally:
        state.destroy_process_group()


def _evaluate_among(
    arguments: argparse.Namespace, names: Sequence[str], skipped: Sequence[Skipped], ranks: Processes
) -> str:
    """One rank's part of the work; the first writes the reports."""
    protocol = _protocol(arguments)
    names = suitable(names, protocol, [*(arguments.metrics or ()), *arguments.require])
    skipped = [entry for entry in skipped if is_suitable(entry.name, protocol)]
    pairs = tuple(pair_up(protocol, arguments.references, arguments.predictions))
    output: Path = arguments.output
    if arguments.reuse is not None and Protocol.load(arguments.reuse / PROTOCOL).id != protocol.id:
        raise InputError(f"--reuse '{arguments.reuse}' is of another protocol than {protocol.id}; leave it out")
    run = Run(protocol, arguments.references, pairs, tuple(names), arguments.weights, output, arguments.reuse)
    if ranks.is_main_process:
        _claim(output, protocol)
    ranks.wait_for_everyone()
    measure_all(run, arguments.processes, ranks)
    if not ranks.is_main_process:
        return ""
    measured = [(METRICS[name].for_records(), run.records(name)) for name in names]
    results = collect(arguments.name or output.resolve().name, protocol, measured, skipped)
    results.save(output)
    write_csv(results, output / "results.csv")
    write_markdown(results, output / "results.md")
    write_page(results, make_sheets(results, run), output / "index.html")
    left_out = f"\nskipped, weights are missing: {', '.join(entry.name for entry in skipped)}" if skipped else ""
    return f"{facts(results)}{left_out}\n'{output / 'index.html'}', results.md, results.csv, results.json"


def _protocol(arguments: argparse.Namespace) -> Protocol:
    """The manifest that was given, else one made now, which depends on the references and settings alone."""
    if arguments.manifest is None:
        return frozen(arguments.benchmark, arguments.references, arguments.overrides)
    if arguments.overrides:
        raise InputError(f"'{arguments.overrides[0]}' would change the frozen '{arguments.manifest}'; give one of them")
    protocol = Protocol.load(arguments.manifest)
    if protocol.benchmark != arguments.benchmark:
        raise InputError(f"'{arguments.manifest}' is of benchmark {protocol.benchmark}, not {arguments.benchmark}")
    return protocol


def _claim(output: Path, protocol: Protocol) -> None:
    """Notes the protocol in the output folder, or checks that it is the one of the records there.

    Raises:
        InputError: records of another protocol are there, or other things.
    """
    note = output / PROTOCOL
    if note.is_file():
        if (before := Protocol.load(note)).id != protocol.id:
            raise InputError(f"'{output}' holds records of protocol {before.id}, this is {protocol.id}; choose another")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output '{output}' holds other things; choose an empty or new folder")
    protocol.save(note)


def _state() -> Any:
    """accelerate's knowledge of the ranks: one, or those that it launched."""
    from accelerate import PartialState

    # Nobody may give up waiting for a rank that has hours of work more than another.
    return PartialState(timeout=timedelta(days=14))


def _needed(arguments: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(arguments, name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} must be given; see --help")


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]
