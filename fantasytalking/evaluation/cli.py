"""Command lines that evaluate videos and freeze benchmarks."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from fantasytalking.common.agreement import errors_on_all
from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.command_parser import CommandParser, path_argument
from fantasytalking.common.config import CONFIGS_FOLDER, load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import check_utf8_path
from fantasytalking.common.locks import RUN_LOCK_FILE, lock_output
from fantasytalking.common.processes import connect_processes
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

BENCHMARKS_FOLDER = "benchmarks"
"""Folder of configs/ that contains the benchmarks."""
MAX_EVALUATION_PROCESSES = 256


def benchmark_names() -> list[str]:
    """Returns the names of the benchmarks in configs/benchmarks, one YAML file each."""
    return sorted(path.stem for path in (CONFIGS_FOLDER / BENCHMARKS_FOLDER).glob("*.yaml"))


def parse_evaluation_args(
    arguments: Sequence[str], description: str | None, prog: str | None = None
) -> argparse.Namespace:
    """Parses the command line of `fantasytalking evaluate`."""
    parser = CommandParser(prog, description)
    parser.add_argument("--benchmark", choices=benchmark_names(), help="which benchmark; no default")
    parser.add_path("--references", help="folder of the real videos, laid out as in the dataset; no default")
    parser.add_path("--predictions", help="folder of generated videos: NAME.mp4 or NAME/video.mp4; no default")
    parser.add_path("--manifest", help="made by freeze-benchmark; default: frozen from --references")
    parser.add_path("--weights", help="folder of weights; metrics with missing weights are skipped; default: none")
    parser.add_argument("--metrics", type=_split_names, help=f"any of {', '.join(METRICS)}; default: all")
    add_argument_with_alias(
        parser,
        "--required-metrics",
        "--require",
        type=_split_names,
        default=[],
        metavar="METRICS",
        help="metrics that must not be skipped; default: none",
    )
    add_argument_with_alias(
        parser,
        "--reuse-references",
        "--reuse",
        type=path_argument,
        metavar="OUTPUT",
        help="output folder of an earlier run, whose measurements of the references are reused; default: none",
    )
    add_argument_with_alias(
        parser,
        "--num-processes",
        "--processes",
        type=int,
        default=1,
        help="number of processes on this machine, per rank under accelerate",
    )
    parser.add_argument("--name", help="name of the run in tables; default: that of the output folder")
    parser.add_path("--output", help="folder for results.json, .csv, .md, index.html and the records; no default")
    parser.add_path(
        "--compare", nargs=2, metavar="RESULTS", help="only paired tests between two results.json; default: none"
    )
    parser.add_path(
        "--table", nargs="+", metavar="RESULTS", help="only one table of several results.json; default: none"
    )
    parser.add_argument("--title", default="Comparison", help="title of that table")
    parser.add_settings("settings of the benchmark, such as max_clips=20")
    return parser.parse_intermixed_args(arguments)


def run_evaluation(arguments: argparse.Namespace) -> str:
    """Evaluates, compares two results or writes a table, depending on the arguments.

    Returns:
        the text to print; empty on all ranks but the first.

    Raises:
        InputError: an argument or a file cannot be used.
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
    """Freezes the protocol of a local copy by configs/benchmarks/BENCHMARK.yaml and overrides."""
    config = load_config(BenchmarkConfig, preset_path(BENCHMARKS_FOLDER, benchmark), overrides)
    freeze = freeze_reenactment if config.layout in REENACTMENT_LAYOUTS else freeze_videos
    return freeze(benchmark, references, config)


def _evaluate(arguments: argparse.Namespace) -> str:
    _require_arguments(arguments, "benchmark", "references", "predictions", "output")
    if not 1 <= arguments.num_processes <= MAX_EVALUATION_PROCESSES:
        raise InputError(
            f"--num-processes is {arguments.num_processes}; it must be from 1 to {MAX_EVALUATION_PROCESSES}",
            code=ErrorCode.out_of_range,
            field="--num-processes",
            value=arguments.num_processes,
        )
    if arguments.weights is not None:
        check_utf8_path(arguments.weights, "--weights")
    names, skipped = select_metrics(arguments.metrics, arguments.weights, arguments.required_metrics)
    state = connect_processes(cpu=False)
    try:
        with lock_output(arguments.output, hold=state.is_main_process):
            return _evaluate_on_rank(arguments, names, skipped, state)
    finally:
        state.destroy_process_group()


def _evaluate_on_rank(
    arguments: argparse.Namespace, names: Sequence[str], skipped: Sequence[SkippedMetric], process_state: ProcessState
) -> str:
    """Measures the clips of one rank; the first rank writes the reports."""
    protocol = _load_or_freeze_protocol(arguments)
    names = metrics_for_benchmark(names, protocol, [*(arguments.metrics or ()), *arguments.required_metrics])
    skipped = [entry for entry in skipped if supports_benchmark(entry.name, protocol)]
    pairs = tuple(match_predictions(protocol, arguments.references, arguments.predictions))
    output: Path = arguments.output
    reuse: Path | None = arguments.reuse_references
    if reuse is not None and (other := BenchmarkProtocol.load(reuse / PROTOCOL_FILE).id) != protocol.id:
        raise InputError(
            f"--reuse-references '{reuse}' has protocol {other}, this run {protocol.id}; leave it out",
            code=ErrorCode.conflict,
            field="--reuse-references",
            value=other,
        )
    run = EvaluationRun(protocol, arguments.references, pairs, tuple(names), arguments.weights, output, reuse)
    with errors_on_all():
        if process_state.is_main_process:
            _check_output_protocol(output, protocol)
    process_state.wait_for_everyone()
    measure_run(run, arguments.num_processes, process_state)
    if not process_state.is_main_process:
        return ""
    measured = [(METRICS[name].for_records(), run.load_measurements(name)) for name in names]
    results = collect_results(arguments.name or output.resolve().name, protocol, measured, skipped)
    results.save(output)
    write_csv(results, output / "results.csv")
    write_markdown(results, output / "results.md")
    write_html_report(results, render_clip_sheets(results, run), output / "index.html")
    note = f"\nskipped, weights are missing: {', '.join(entry.name for entry in skipped)}" if skipped else ""
    return f"{summary_line(results)}{note}\n'{output / 'index.html'}', results.md, results.csv, results.json"


def _load_or_freeze_protocol(arguments: argparse.Namespace) -> BenchmarkProtocol:
    """Loads the manifest if one is given, else freezes the references, which has the same result on every rank."""
    if arguments.manifest is None:
        return freeze_benchmark(arguments.benchmark, arguments.references, arguments.overrides)
    if arguments.overrides:
        raise InputError(
            f"override '{arguments.overrides[0]}' cannot change the frozen --manifest '{arguments.manifest}'; leave "
            "one of them out",
            code=ErrorCode.conflict,
            field="--manifest",
            value=arguments.overrides[0],
        )
    protocol = BenchmarkProtocol.load(arguments.manifest)
    if protocol.benchmark != arguments.benchmark:
        raise InputError(
            f"--benchmark is {arguments.benchmark}, but --manifest '{arguments.manifest}' is of {protocol.benchmark}; "
            f"give --benchmark {protocol.benchmark}",
            code=ErrorCode.conflict,
            field="--benchmark",
            value=arguments.benchmark,
        )
    return protocol


def _check_output_protocol(output: Path, protocol: BenchmarkProtocol) -> None:
    """Writes the protocol to the output folder, or checks that it is the one of the records there.

    Raises:
        InputError: the folder contains records of another protocol, or other files.
    """
    path = output / PROTOCOL_FILE
    if path.is_file():
        if (before := BenchmarkProtocol.load(path)).id != protocol.id:
            raise InputError(
                f"--output '{output}' contains records of protocol {before.id}, this run has {protocol.id}; choose "
                "another folder",
                code=ErrorCode.output_exists,
                field="--output",
                value=before.id,
            )
    elif not output.is_dir() or any(entry.name != RUN_LOCK_FILE for entry in output.iterdir()):
        raise InputError(
            f"--output '{output}' contains other files; choose an empty or new folder",
            code=ErrorCode.output_exists,
            field="--output",
            value=str(output),
        )
    protocol.save(path)


def _require_arguments(arguments: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(arguments, name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} must be given; see --help", code=ErrorCode.missing_value, field=missing[0]
        )


def _split_names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]
