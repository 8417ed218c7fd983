"""The runner resumes, is independent of the number of processes, and names clips that fail."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, MetricValue, mean_over_clips
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.records import MeasurementSide, load_record, record_path, save_record
from fantasytalking.evaluation.registry import METRICS, measurement_key
from fantasytalking.evaluation.runner import EvaluationRun, measure_run, measure_sides
from fantasytalking.evaluation.weights import NANO_FACE_WEIGHTS
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import start_fork_server


@dataclass
class Rank:
    """One of several ranks, which do not wait for each other in these tests."""

    process_index: int = 0
    num_processes: int = 1

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0

    def wait_for_everyone(self) -> None:
        """Returns at once."""


@pytest.fixture
def run(protocol: BenchmarkProtocol, world: Path, late: Path, tmp_path: Path) -> EvaluationRun:
    predictions = Path(shutil.copytree(late, tmp_path / "predictions"))
    pairs = tuple(match_predictions(protocol, world, predictions))
    return EvaluationRun(protocol, world, pairs, ("psnr", "ssim"), None, tmp_path / "output")


def files(run: EvaluationRun) -> dict[str, bytes]:
    return {str(path.relative_to(run.output)): path.read_bytes() for path in run.output.rglob("*.npz")}


def test_processes_and_ranks_give_the_same_records(run: EvaluationRun, tmp_path: Path) -> None:
    measure_run(run, 1, Rank())
    two = replace(run, output=tmp_path / "two")
    start_fork_server()
    measure_run(two, 2, Rank())
    ranks = replace(run, output=tmp_path / "ranks")
    measure_run(ranks, 1, Rank(1, 2))
    assert len(files(ranks)) == 4
    measure_run(ranks, 1, Rank(0, 2))
    assert len(files(run)) == 8
    scores = [
        [float(sides[MeasurementSide.PREDICTION]["psnr"]) for sides in one.load_measurements("psnr")]
        for one in (run, two, ranks)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_only_missing_records_are_measured_again(run: EvaluationRun) -> None:
    measure_run(run, 1, Rank())
    whole = files(run)
    stamps = {path: path.stat().st_mtime_ns for path in run.output.rglob("*.npz")}
    gone = record_path(run.output, "ssim", run.pairs[2].clip.name)
    gone.unlink()
    assert [(task.pair.clip.name, task.metrics) for task in run.pending_tasks()] == [
        (run.pairs[2].clip.name, ("ssim",))
    ]
    measure_run(run, 1, Rank())
    changed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [gone]
    assert files(run).keys() == whole.keys()
    remade = replace(run.pairs[1], prediction_sha256="0" * 64)
    other = replace(run, pairs=(run.pairs[0], remade, *run.pairs[2:]))
    assert [task.pair.clip.name for task in other.pending_tasks()] == [remade.clip.name]
    with raises_input_error(ErrorCode.missing_file, "psnr", 1):
        other.load_measurements("psnr")


def test_another_version_of_a_metric_is_measured_again(run: EvaluationRun, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_run(run, 1, Rank())
    assert not list(run.pending_tasks())
    monkeypatch.setattr(PSNR, "version", 2)
    assert [task.metrics for task in run.pending_tasks()] == [("psnr",)] * 4


def test_measurement_keys_depend_on_the_weights(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / NANO_FACE_WEIGHTS.file).write_bytes(content)
    one, other = (measurement_key("csim_nano", tmp_path / name) for name in ("one", "other"))
    assert one != other and one.split(" ")[0] == other.split(" ")[0] == str(METRICS["csim_nano"].version)
    assert measurement_key("psnr", tmp_path / "one") == measurement_key("psnr", None) == str(PSNR.version)


def test_a_clip_that_fails_is_named_and_the_others_are_kept(run: EvaluationRun, world: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(world, tmp_path / "changed"))
    first, second = run.pairs[0], run.pairs[1]
    video = changed / first.clip.video
    shutil.copy(changed / second.clip.video, video)
    pairs = tuple(replace(pair, reference=changed / pair.clip.video) for pair in run.pairs)
    broken = replace(run, references=changed, pairs=pairs)
    with raises_input_error(ErrorCode.unreadable_media, "clips", 1) as caught:
        measure_run(broken, 1, Rank())
    assert f"1 of 4 clips could not be measured: '{first.clip.name}': reference" in str(caught.value)
    assert len(files(broken)) == 6
    damaged = record_path(run.output, "psnr", second.clip.name)
    damaged.write_bytes(damaged.read_bytes()[:200])
    with raises_input_error(ErrorCode.malformed_file, "records", str(damaged)):
        list(broken.pending_tasks())


class Loudness(PSNR):
    """A metric of one video with audio: the root mean square of the audio."""

    name = "loudness"
    values = (MetricValue("loudness", "", "reference", "Root mean square."),)
    paired, uses_audio = False, True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        assert reference is None
        return {"loudness": np.sqrt(np.mean(video.audio**2)), "frames": np.array(len(video.frames))}

    def summarize(self, measurements: list[Measurement]) -> dict[str, float]:
        return mean_over_clips(measurements, ("loudness",))


def test_sides_of_a_paired_metric_and_of_one_with_audio(clips: list[EvaluationClip]) -> None:
    real = clips[0]
    quiet = real.with_audio(real.audio * np.float32(0.5))
    sides = measure_sides(Loudness(), quiet, real, np.full(200_000, 0.25, np.float32))
    assert set(sides) == {
        MeasurementSide.PREDICTION,
        MeasurementSide.REFERENCE,
        MeasurementSide.FLOOR,
        MeasurementSide.CONTROL,
    }
    assert float(sides[MeasurementSide.PREDICTION]["loudness"]) == pytest.approx(
        0.5 * float(sides[MeasurementSide.REFERENCE]["loudness"])
    )
    assert float(sides[MeasurementSide.CONTROL]["loudness"]) == pytest.approx(0.25)
    assert int(sides[MeasurementSide.FLOOR]["frames"]) == len(real.frames) - len(real.frames) // 2
    assert MeasurementSide.CONTROL not in measure_sides(Loudness(), quiet, real, None)
    paired = measure_sides(PSNR(), real, real, np.zeros(100, np.float32))
    assert set(paired) == {MeasurementSide.PREDICTION, MeasurementSide.FLOOR}
    assert float(paired[MeasurementSide.PREDICTION]["psnr"]) == 100 > float(paired[MeasurementSide.FLOOR]["psnr"]) > 20


def test_measurements_of_references_are_reused(run: EvaluationRun, same: Path, tmp_path: Path) -> None:
    measure_run(run, 1, Rank())
    mark = record_path(run.output, "psnr", run.pairs[0].clip.name)
    before = load_record(mark, measurement_key("psnr", None))
    assert before is not None
    before[MeasurementSide.FLOOR]["psnr"] = np.array(12.5)
    save_record(mark, before, measurement_key("psnr", None), run.pairs[0].prediction_sha256)
    pairs = tuple(match_predictions(run.protocol, run.references, same))
    other = replace(run, pairs=pairs, output=tmp_path / "other", reuse=run.output)
    measure_run(other, 1, Rank())
    after = other.load_measurements("psnr")[0]
    assert float(after[MeasurementSide.FLOOR]["psnr"]) == 12.5
    assert float(after[MeasurementSide.PREDICTION]["psnr"]) == 100 > float(before[MeasurementSide.PREDICTION]["psnr"])


def test_records_contain_the_measurements(run: EvaluationRun) -> None:
    measure_run(run, 1, Rank())
    pair = run.pairs[0]
    sides = load_record(
        record_path(run.output, "psnr", pair.clip.name), measurement_key("psnr", None), pair.prediction_sha256
    )
    assert sides is not None
    expected = PSNR().measure(
        run.protocol.prediction_clip(pair.clip, pair.prediction, run.references),
        run.protocol.reference_clip(pair.clip, run.references),
    )
    assert float(sides[MeasurementSide.PREDICTION]["psnr"]) == float(expected["psnr"])
