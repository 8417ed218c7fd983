"""What scripts/evaluate.py and scripts/make_benchmark.py do with their command lines."""

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.common.resumable_tasks import ProcessState
from fantasytalking.evaluation.benchmark.config import REENACTMENT_LAYOUTS, BenchmarkConfig
from fantasytalking.evaluation.benchmark.freeze import freeze_videos
from fantasytalking.evaluation.benchmark.freeze_reenactment import freeze_reenactment
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.registry import (
    METRICS,
    SkippedMetric,
    metrics_for_benchmark,
    select_metrics,
    supports_benchmark,
)
from fantasytalking.evaluation.report.comparison_table import (
    compare_results,
    format_comparison,
    load_comparable,
    write_comparison_table,
)
from fantasytalking.evaluation.report.frame_sheets import render_clip_sheets
from fantasytalking.evaluation.report.html import write_html_report
from fantasytalking.evaluation.report.markdown import summary_line, write_csv, write_markdown
from fantasytalking.evaluation.report.results import EvaluationResults, collect_results
from fantasytalking.evaluation.runner import PROTOCOL_FILE, EvaluationRun, measure_run

BENCHMARKS = ("hdtf", "mead", "celebvhq", "portrait_world", "exprbench", "exprbench_world")
MAX_EVALUATION_PROCESSES = 256


def parse_evaluation_args(
    arguments: Sequence[str], description: str | None, prog: str | None = None
) -> argparse.Namespace:
    """The command line of scripts/evaluate.py."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", choices=BENCHMARKS)
    parser.add_argument("--references", type=Path, help="folder of the real videos, as the data set lays them out")
    parser.add_argument("--predictions", type=Path, help="folder of finished videos: NAME.mp4 or NAME/video.mp4")
    parser.add_argument("--manifest", type=Path, help="made by freeze-benchmark; default: made from --references now")
    parser.add_argument("--weights", type=Path, help="folder of weights; metrics without theirs are skipped")
    parser.add_argument("--metrics", type=_split_names, help=f"of {', '.join(METRICS)}; default: all")
    parser.add_argument("--require", type=_split_names, default=[], metavar="METRICS", help="not to be skipped")
    parser.add_argument("--reuse", type=Path, help="output of an earlier run: its measurements of the references serve")
    parser.add_argument("--processes", type=int, default=1, help="on this machine and, under accelerate, in each rank")
    parser.add_argument("--name", help="of this run in tables; default: the output folder's")
    parser.add_argument("--output", type=Path, help="folder for results.json, .csv, .md, index.html and the records")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar="RESULTS", help="paired tests between two results.json"
    )
    parser.add_argument("--table", type=Path, nargs="+", metavar="RESULTS", help="several results.json as one table")
    parser.add_argument("--title", default="Comparison", help="of that table")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of the benchmark, as in max_clips=20"
    )
    return parser.parse_intermixed_args(arguments)


def run_evaluation(arguments: argparse.Namespace) -> str:
    """Does what was asked for; gives what is to be printed, nothing on ranks other than the first.

    Raises:
        InputError: anything that cannot be used.
    """
    if arguments.compare:
        first, second = arguments.compare
        compared = compare_results(first, second)
        return format_comparison(EvaluationResults.load(first).name, EvaluationResults.load(second).name, compared)
    if arguments.table:
        _require_arguments(arguments, "output")
        write_comparison_table(load_comparable(arguments.table), arguments.output, arguments.title, arguments.metrics)
        return f"'{arguments.output / 'table.html'}' and table.md"
    return _evaluate(arguments)


def freeze_benchmark(benchmark: str, references: Path, overrides: Sequence[str]) -> BenchmarkProtocol:
    """The protocol of a local copy under configs/benchmarks/BENCHMARK.yaml and overrides."""
    config = load_config(BenchmarkConfig, preset_path("benchmarks", benchmark), overrides)
    return (freeze_reenactment if config.layout in REENACTMENT_LAYOUTS else freeze_videos)(
        benchmark, references, config
    )


def _evaluate(arguments: argparse.Namespace) -> str:
    _require_arguments(arguments, "benchmark", "references", "predictions", "output")
    if not 1 <= arguments.processes <= MAX_EVALUATION_PROCESSES:
        raise InputError(f"--processes is {arguments.processes}; give 1 to {MAX_EVALUATION_PROCESSES}")
    names, skipped = select_metrics(arguments.metrics, arguments.weights, arguments.require)
    state = _distributed_state()
    try:
        return _evaluate_on_rank(arguments, names, skipped, state)
    finally:
        state.destroy_process_group()


def _evaluate_on_rank(
    arguments: argparse.Namespace, names: Sequence[str], skipped: Sequence[SkippedMetric], process_state: ProcessState
) -> str:
    """One rank's part of the work; the first writes the reports."""
    protocol = _load_or_freeze_protocol(arguments)
    names = metrics_for_benchmark(names, protocol, [*(arguments.metrics or ()), *arguments.require])
    skipped = [entry for entry in skipped if supports_benchmark(entry.name, protocol)]
    pairs = tuple(match_predictions(protocol, arguments.references, arguments.predictions))
    output: Path = arguments.output
    if arguments.reuse is not None and BenchmarkProtocol.load(arguments.reuse / PROTOCOL_FILE).id != protocol.id:
        raise InputError(f"--reuse '{arguments.reuse}' is of another protocol than {protocol.id}; leave it out")
    run = EvaluationRun(protocol, arguments.references, pairs, tuple(names), arguments.weights, output, arguments.reuse)
    if process_state.is_main_process:
        _check_output_protocol(output, protocol)
    process_state.wait_for_everyone()
    measure_run(run, arguments.processes, process_state)
    if not process_state.is_main_process:
        return ""
    measured = [(METRICS[name].for_records(), run.load_measurements(name)) for name in names]
    results = collect_results(arguments.name or output.resolve().name, protocol, measured, skipped)
    results.save(output)
    write_csv(results, output / "results.csv")
    write_markdown(results, output / "results.md")
    write_html_report(results, render_clip_sheets(results, run), output / "index.html")
    left_out = f"\nskipped, weights are missing: {', '.join(entry.name for entry in skipped)}" if skipped else ""
    return f"{summary_line(results)}{left_out}\n'{output / 'index.html'}', results.md, results.csv, results.json"


def _load_or_freeze_protocol(arguments: argparse.Namespace) -> BenchmarkProtocol:
    """The manifest that was given, else one made now, which depends on the references and settings alone."""
    if arguments.manifest is None:
        return freeze_benchmark(arguments.benchmark, arguments.references, arguments.overrides)
    if arguments.overrides:
        raise InputError(f"'{arguments.overrides[0]}' would change the frozen '{arguments.manifest}'; give one of them")
    protocol = BenchmarkProtocol.load(arguments.manifest)
    if protocol.benchmark != arguments.benchmark:
        raise InputError(f"'{arguments.manifest}' is of benchmark {protocol.benchmark}, not {arguments.benchmark}")
    return protocol


def _check_output_protocol(output: Path, protocol: BenchmarkProtocol) -> None:
    """Notes the protocol in the output folder, or checks that it is the one of the records there.

    Raises:
        InputError: records of another protocol are there, or other things.
    """
    note = output / PROTOCOL_FILE
    if note.is_file():
        if (before := BenchmarkProtocol.load(note)).id != protocol.id:
            raise InputError(f"'{output}' holds records of protocol {before.id}, this is {protocol.id}; choose another")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output '{output}' holds other things; choose an empty or new folder")
    protocol.save(note)


def _distributed_state() -> Any:
    """accelerate's knowledge of the ranks: one, or those that it launched."""
    from accelerate import PartialState

    # Nobody may give up waiting for a rank that has hours of work more than another.
    return PartialState(timeout=timedelta(days=14))


def _require_arguments(arguments: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(arguments, name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} must be given; see --help")


def _split_names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]
