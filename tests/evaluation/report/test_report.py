"""Evaluation from the command line to the reports: consistency, self-contained pages, invalid input."""

import base64
import csv
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.locks import lock_output
from fantasytalking.evaluation.cli import parse_evaluation_args, run_evaluation
from fantasytalking.evaluation.records import load_record, record_path, save_record
from fantasytalking.evaluation.registry import METRICS, measurement_key, select_metrics
from fantasytalking.evaluation.report.comparison_table import (
    ComparedValue,
    compare_results,
    format_comparison,
    write_comparison_table,
)
from fantasytalking.evaluation.report.html import write_html_report
from fantasytalking.evaluation.report.markdown import summary_line, write_csv, write_markdown
from fantasytalking.evaluation.report.results import EvaluationResults, ResultCurve
from fantasytalking.evaluation.report.statistics import PairedDifference
from fantasytalking.evaluation.report.svg_plots import clip_plot, curve_plot
from tests.evaluation.conftest import LATE, SIZE
from tests.helpers.errors import raises_input_error
from tests.helpers.launching import accelerate_launch, cpu_environment
from tests.helpers.paths import ROOT

SIZES = (f"width={SIZE}", f"height={SIZE}")


def evaluate(world: Path, predictions: Path, output: Path, *more: str) -> str:
    command = ["--benchmark", "portrait_world", "--references", world, "--predictions", predictions, "--output", output]
    chosen = [] if "--metrics" in more else ["--metrics", "mouth_truth,psnr"]
    sizes = [] if "--manifest" in more else SIZES
    return run_evaluation(parse_evaluation_args([*map(str, command), *chosen, *more, *sizes], None))


@pytest.fixture(scope="module")
def evaluated(world: Path, same: Path, late: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: `same`, the real videos themselves, and `late`."""
    folder = tmp_path_factory.mktemp("evaluated")
    evaluate(world, same, folder / "same", "--name", "<b>same & real</b>")
    evaluate(world, late, folder / "late")
    return folder


def test_real_videos_have_the_score_of_the_references(evaluated: Path) -> None:
    results = EvaluationResults.load(evaluated / "same" / "results.json")
    rows = {row.value: row for row in results.rows}
    assert rows["psnr"].score.score == 100
    mouth = rows["mouth_truth"]
    assert mouth.truth is not None and mouth.floor is not None
    assert mouth.score == mouth.truth
    assert mouth.score.low < mouth.score.score < mouth.score.high
    assert mouth.score.n == len(mouth.per_clip) == 4
    late = EvaluationResults.load(evaluated / "late" / "results.json")
    assert late.protocol == results.protocol
    lag = late.find_row("mouth_lag")
    assert lag is not None and lag.truth is not None
    assert (lag.score.score, lag.truth.score) == (LATE, 0)


def test_json_csv_and_markdown_agree(evaluated: Path) -> None:
    folder = evaluated / "late"
    text = (folder / "results.json").read_text()
    assert "NaN" not in text
    results = EvaluationResults.load(folder / "results.json")
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results.rows) * 5
    for row in results.rows:
        (summary,) = [line for line in lines if line["value"] == row.value and not line["clip"]]
        assert float(summary["score"]) == row.score.score
        per_clip = {line["clip"]: float(line["score"]) for line in lines if line["value"] == row.value and line["clip"]}
        assert per_clip == row.per_clip
        assert f"| {row.value}" in (folder / "results.md").read_text()
    assert results.protocol in (folder / "results.md").read_text()
    again = evaluated / "again"
    again.mkdir()
    results.save(again)
    assert (again / "results.json").read_text() == text


def test_the_page_is_self_contained_and_shows_frames(evaluated: Path) -> None:
    page = (evaluated / "same" / "index.html").read_text()
    assert "<b>same" not in page
    assert "&lt;b&gt;same &amp; real&lt;/b&gt;" in page
    assert not re.search(r"https?:|<script|<link|@import|url\(|src=\"(?!data:)", page)
    assert EvaluationResults.load(evaluated / "same" / "results.json").protocol in page
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(images) == 4  # two worst, two best of four
    for image in images:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
        assert pixels.shape[1] > 8 * 120
        upper, lower = pixels[8:128, 8:128].astype(int), pixels[158:278, 8:128].astype(int)
        assert np.abs(upper - lower).mean() < 4  # the prediction is the reference, except for JPEG artifacts
        assert pixels[8:128, 8:128].std() > 20
    assert page.count("<svg") == 4
    assert page.count('class="dot"') == page.count("<circle") - page.count('class="ring"') == 16


def test_published_numbers_are_separate(evaluated: Path, tmp_path: Path) -> None:
    results = replace(EvaluationResults.load(evaluated / "late" / "results.json"), benchmark="hdtf")
    write_html_report(results, None, tmp_path / "index.html")
    write_markdown(results, tmp_path / "results.md")
    for text in ((tmp_path / "index.html").read_text(), (tmp_path / "results.md").read_text()):
        ours, reported = text.split("Published results")
        assert "Not comparable" in reported
        for number in ("27.695", "301.173", "4.226", "11.745", "25.615"):
            assert number in reported and number not in ours


def test_runs_resume_and_reject_another_protocol(evaluated: Path, world: Path, late: Path) -> None:
    record = next((evaluated / "late" / "records").rglob("*.npz"))
    stamp = record.stat().st_mtime_ns
    before = (evaluated / "late" / "results.json").read_text()
    evaluate(world, late, evaluated / "late")
    assert record.stat().st_mtime_ns == stamp
    assert (evaluated / "late" / "results.json").read_text() == before
    with raises_input_error(ErrorCode.output_exists, "--output", json.loads(before)["protocol"]):
        evaluate(world, late, evaluated / "late", "max_seconds=1", "max_extra_frames=60")
    with raises_input_error(ErrorCode.output_exists, "--output", str(late)):
        evaluate(world, late, late)


def test_runs_with_other_weights_are_not_compared(evaluated: Path, tmp_path: Path) -> None:
    results = EvaluationResults.load(evaluated / "late" / "results.json")
    other = Path(shutil.copytree(evaluated / "late", tmp_path / "other"))
    replace(results, name="other").save(other)
    assert compare_results(evaluated / "late" / "results.json", other / "results.json")
    metric = results.rows[0].metric
    path = record_path(other, metric, results.clips[0])
    sides = load_record(path, measurement_key(metric, None))
    assert sides is not None
    save_record(path, sides, f"{measurement_key(metric, None)} 0123", "0")
    with raises_input_error(ErrorCode.conflict, metric):
        compare_results(evaluated / "late" / "results.json", other / "results.json")


def run_script(name: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *command])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")


def test_a_frozen_manifest_has_the_same_protocol(
    evaluated: Path,
    world: Path,
    late: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = tmp_path / "manifest.json"
    command = ["--benchmark", "portrait_world", "--references", str(world), "--output", str(manifest), *SIZES]
    run_script("make_benchmark.py", command, monkeypatch)
    printed = capsys.readouterr().out
    identity = EvaluationResults.load(evaluated / "late" / "results.json").protocol
    assert printed.startswith(f"protocol {identity}: 4 clips of 2 people")
    evaluate(world, late, tmp_path / "run", "--manifest", str(manifest), "--metrics", "psnr")
    assert EvaluationResults.load(tmp_path / "run" / "results.json").protocol == identity
    with raises_input_error(ErrorCode.conflict, "--manifest", "max_seconds=1"):
        evaluate(world, late, tmp_path / "run", "--manifest", str(manifest), "max_seconds=1")


def test_tables_and_comparisons_of_runs(evaluated: Path, world: Path, late: Path, tmp_path: Path) -> None:
    paths = [str(evaluated / name / "results.json") for name in ("same", "late")]
    run_evaluation(parse_evaluation_args(["--table", *paths, "--output", str(tmp_path), "--title", "Two <runs>"], None))
    table = (tmp_path / "table.md").read_text()
    assert re.search(r"\| late \| -?0\.\d+ \[", table)
    assert re.search(r"\| real \| 0\.9\d+ \[", table)
    page = (tmp_path / "table.html").read_text()
    assert "| floor |" in table
    run_evaluation(
        parse_evaluation_args(["--table", *paths, "--output", str(tmp_path / "psnr"), "--metrics", "psnr"], None)
    )
    assert "mouth_truth" not in (tmp_path / "psnr" / "table.md").read_text()
    with raises_input_error(ErrorCode.unknown_key, "--metrics", "lmd"):
        run_evaluation(
            parse_evaluation_args(["--table", *paths, "--output", str(tmp_path), "--metrics", "psnr,lmd"], None)
        )
    assert "Two &lt;runs&gt;" in page and "&lt;b&gt;same" in page and "<b>same" not in page
    compared = run_evaluation(parse_evaluation_args(["--compare", *paths], None))
    line = next(line for line in compared.splitlines() if line.startswith("| psnr"))
    first, second, difference = (float(cell.split()[0]) for cell in line.split("|")[2:5])
    assert first == 100 > second
    assert difference == pytest.approx(second - first, rel=1e-2)
    with raises_input_error(ErrorCode.conflict, "name", "late"):
        run_evaluation(parse_evaluation_args(["--table", paths[1], paths[1], "--output", str(tmp_path)], None))
    evaluate(world, late, tmp_path / "short", "--metrics", "psnr", "max_seconds=1", "max_extra_frames=60")
    with raises_input_error(ErrorCode.conflict, "protocol"):
        run_evaluation(parse_evaluation_args(["--compare", paths[0], str(tmp_path / "short" / "results.json")], None))


def test_metrics_without_weights_are_skipped_or_rejected(evaluated: Path, tmp_path: Path) -> None:
    usable, skipped = select_metrics(None, None)
    assert {"psnr", "ssim", "mouth_truth"} <= set(usable)
    assert {entry.name for entry in skipped} == {name for name, metric in METRICS.items() if metric.required_weights}
    description = next(entry.describe() for entry in skipped if entry.name == "syncnet")
    for fact in ("syncnet_v2.model", "961e8696f888", "joonson/syncnet_python"):
        assert fact in description
    with raises_input_error(ErrorCode.missing_weights, "--weights", "syncnet_v2.model"):
        select_metrics(["psnr"], None, ["syncnet"])
    with raises_input_error(ErrorCode.unknown_key, "--required-metrics", "fld"):
        select_metrics(["psnr"], None, ["fld"])
    with raises_input_error(ErrorCode.missing_weights, "--weights", "syncnet_v2.model"):
        select_metrics(["syncnet"], None)
    with raises_input_error(ErrorCode.unknown_key, "--metrics", "fld"):
        select_metrics(["fld"], None)
    (tmp_path / "syncnet_v2.model").write_bytes(b"short")
    with raises_input_error(ErrorCode.malformed_file, "syncnet_v2.model", 5):
        select_metrics(["syncnet"], tmp_path)


def test_names_that_are_not_utf8_are_evaluated_and_escaped_in_reports(world: Path, late: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"lat\xe9")
    references, predictions = (shutil.copytree(folder, tmp_path / (name + folder.name)) for folder in (world, late))
    evaluate(references, predictions, tmp_path / name, "--metrics", "psnr")
    assert EvaluationResults.load(tmp_path / name / "results.json").name == name
    for file in ("results.md", "results.csv", "index.html", "protocol.json"):
        (tmp_path / name / file).read_bytes().decode("utf-8")
    results = [str(tmp_path / name / "results.json")]
    run_evaluation(parse_evaluation_args(["--table", *results, "--output", str(tmp_path / name / "table")], None))
    assert "lat\\udce9" in (tmp_path / name / "table" / "table.html").read_text("utf-8")
    with raises_input_error(ErrorCode.unsupported, "--weights"):
        evaluate(references, predictions, tmp_path / "run", "--weights", str(tmp_path / name))


def test_one_evaluation_per_output_and_no_foreign_table_is_replaced(
    evaluated: Path, world: Path, late: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with lock_output(run), raises_input_error(ErrorCode.output_exists, "output", str(run)):
        evaluate(world, late, run, "--metrics", "psnr")
    table = ["--table", str(evaluated / "late" / "results.json"), "--output", str(tmp_path)]
    (tmp_path / "table.md").write_text("my table")
    with raises_input_error(ErrorCode.output_exists, "--output", str(tmp_path / "table.md")):
        run_evaluation(parse_evaluation_args(table, None))
    assert (tmp_path / "table.md").read_text() == "my table"
    (tmp_path / "table.md").unlink()
    for _ in range(2):  # a table of an earlier run is replaced
        run_evaluation(parse_evaluation_args(table, None))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--benchmark", "hdtf"], "--references, --predictions, --output"),
        (["--table", "no.json", "--output", "x"], "'no.json'"),
        (["--compare", "no.json", "none.json"], "'no.json'"),
    ],
)
def test_mistakes_end_in_one_line(
    command: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_script("evaluate.py", command, monkeypatch)
    error_output = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error_output
    assert len(error_output.strip().splitlines()) == 1


@pytest.mark.parametrize("change", [{"rows": [{}]}, {"format": 7}, {"extra": 1}, {"curves": 3}])
def test_damaged_results_are_rejected(evaluated: Path, tmp_path: Path, change: dict) -> None:
    values = json.loads((evaluated / "late" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**values, **change}))
    with raises_input_error(ErrorCode.malformed_file, "results.json", str(tmp_path / "results.json")):
        EvaluationResults.load(tmp_path / "results.json")


HOSTILE = "=1+1 <script>alert(1)</script> [a](http://x) ![b](http://y) `c` | d\x1b[31m\u202e\n# e"


def test_names_of_others_are_shown_as_text_everywhere(evaluated: Path, tmp_path: Path) -> None:
    results = EvaluationResults.load(evaluated / "late" / "results.json")
    rows = [replace(row, value=HOSTILE, unit=HOSTILE, metric="=cmd", description=HOSTILE) for row in results.rows[:1]]
    rows = [replace(row, per_clip={f"@{HOSTILE}": 1.0}) for row in rows]
    hostile = replace(results, name=HOSTILE, benchmark=HOSTILE, protocol="-2+3", rows=rows, skipped=[HOSTILE])
    (tmp_path / "a").mkdir()
    hostile.save(tmp_path / "a")
    loaded = EvaluationResults.load(tmp_path / "a" / "results.json")
    write_markdown(loaded, tmp_path / "results.md")
    write_csv(loaded, tmp_path / "results.csv")
    write_html_report(loaded, None, tmp_path / "index.html")
    write_comparison_table([loaded], tmp_path, HOSTILE)
    difference = PairedDifference(1.0, 2.0, 1.0, 0.5, 1.5, 0.1, 4)
    compared = format_comparison(HOSTILE, HOSTILE, [ComparedValue(HOSTILE, difference, 0.1)])
    for name in ("index.html", "table.html", "results.md", "table.md"):
        text = (tmp_path / name).read_text()
        assert "<script" not in text and "&lt;script" in text, name
    for text in ((tmp_path / "results.md").read_text(), (tmp_path / "table.md").read_text(), compared):
        assert "\x1b" not in text and "\u202e" not in text and "\n# e" not in text
        assert r"\[a\](http://x) !\[b\](http://y) \`c\` \| d" in text
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
        assert len(columns) == 1, "no name adds a column"
    cells = [cell for line in csv.reader((tmp_path / "results.csv").open(newline="")) for cell in line if cell]
    assert not [cell for cell in cells if cell.lstrip()[0] in "=+@" or (cell[0] == "-" and not _is_number(cell))]
    assert "\x1b" not in summary_line(loaded)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["a"]},
        {"fps": "25"},
        {"fps": float("inf")},
        {"width": 1.5},
        {"clips": [1]},
        {"skipped": [None]},
        {"clips": 3},
    ],
)
def test_results_of_other_types_are_rejected(evaluated: Path, tmp_path: Path, change: dict) -> None:
    values = json.loads((evaluated / "late" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**values, **change}))
    with raises_input_error(ErrorCode.malformed_file):
        EvaluationResults.load(tmp_path / "results.json")


@pytest.mark.parametrize(
    "change", [{"better": "best"}, {"per_clip": {"a": True}}, {"score": {"score": 10**300}}, {"unit": 3}]
)
def test_rows_of_other_types_are_rejected(evaluated: Path, tmp_path: Path, change: dict) -> None:
    values = json.loads((evaluated / "late" / "results.json").read_text())
    values["rows"][0] = {**values["rows"][0], **change}
    (tmp_path / "results.json").write_text(json.dumps(values))
    with raises_input_error(ErrorCode.malformed_file):
        EvaluationResults.load(tmp_path / "results.json")


def test_old_option_names_work_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    old = ["--require", "psnr,ssim", "--reuse", "earlier", "--processes", "3", "max_clips=2"]
    arguments = parse_evaluation_args(old, None)
    new = ["--required-metrics", "psnr,ssim", "--reuse-references", "earlier", "--num-processes", "3", "max_clips=2"]
    assert vars(arguments) == vars(parse_evaluation_args(new, None))
    assert (arguments.required_metrics, arguments.num_processes) == (["psnr", "ssim"], 3)
    assert [record.args for record in caplog.records] == [
        ("--require", "--required-metrics"),
        ("--reuse", "--reuse-references"),
        ("--processes", "--num-processes"),
    ]


def test_plots_omit_unknown_values() -> None:
    plot = clip_plot({"a<": 1.0, "b": float("nan"), "c": 3.0}, {"a<": 2.0}, "px")
    assert plot.count('class="dot"') == 2
    assert plot.count('class="ring"') == 1
    assert "a&lt;: 1 px" in plot
    heights = [float(y) for y in re.findall(r'class="dot" cx="[\d.]+" cy="([\d.]+)"', plot)]
    assert heights[0] > heights[1]  # the larger score is higher
    assert clip_plot({"a": float("nan")}, {}, "") == ""
    curve = ResultCurve("c", "", "", {"a": [1.0, 2.0, 3.0], "b": [1.0, float("nan")]}, {"a": [0.0, 0.0, 0.0]})
    drawn = curve_plot(curve.per_clip, curve.truth_per_clip, "")
    assert drawn.count("<polyline") == 4
    assert "nan" not in drawn
    assert curve_plot({"a": []}, {}, "") == ""


@pytest.mark.slow
def test_ranks_of_accelerate_share_the_clips(evaluated: Path, world: Path, late: Path, tmp_path: Path) -> None:
    command = [
        *accelerate_launch(2),
        ROOT / "tests" / "helpers" / "record_world_size.py",
        tmp_path / "shares",
        ROOT / "scripts" / "evaluate.py",
        "--benchmark",
        "portrait_world",
        "--references",
        world,
        "--predictions",
        late,
        "--metrics",
        "mouth_truth,psnr",
        "--output",
        tmp_path / "late",
        *SIZES,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=cpu_environment())
    assert done.stdout.count("protocol") == 1
    assert [(tmp_path / f"shares{rank}").read_text() for rank in range(2)] == ["2", "2"]
    assert (tmp_path / "late" / "results.json").read_text() == (evaluated / "late" / "results.json").read_text()
