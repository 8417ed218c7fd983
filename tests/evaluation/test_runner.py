"""Measuring goes on where it stopped, gives the same with any number of processes, and names the clip that fails."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.benchmark.prediction_pairing import pair_up
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Record, Value, mean_over_clips
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.records import Side, load_record, record_path, save_record
from fantasytalking.evaluation.registry import METRICS, measured_by
from fantasytalking.evaluation.runner import Run, measure_all, measure_sides
from fantasytalking.evaluation.weights import NANO_FACE


@dataclass
class Rank:
    """One of several processes that need not wait for each other here."""

    process_index: int = 0
    num_processes: int = 1

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0

    def wait_for_everyone(self) -> None:
        """Nobody else is there."""


@pytest.fixture
def run(protocol: Protocol, world: Path, late: Path, tmp_path: Path) -> Run:
    predictions = Path(shutil.copytree(late, tmp_path / "predictions"))
    pairs = tuple(pair_up(protocol, world, predictions))
    return Run(protocol, world, pairs, ("psnr", "ssim"), None, tmp_path / "output")


def files(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.output)): path.read_bytes() for path in run.output.rglob("*.npz")}


def test_processes_and_ranks_give_the_same_records(run: Run, tmp_path: Path) -> None:
    measure_all(run, 1, Rank())
    two = replace(run, output=tmp_path / "two")
    measure_all(two, 2, Rank())
    ranks = replace(run, output=tmp_path / "ranks")
    measure_all(ranks, 1, Rank(1, 2))
    assert len(files(ranks)) == 4
    measure_all(ranks, 1, Rank(0, 2))
    assert len(files(run)) == 8
    scores = [[float(sides[Side.PREDICTION]["psnr"]) for sides in one.records("psnr")] for one in (run, two, ranks)]
    assert scores[0] == scores[1] == scores[2]


def test_only_what_misses_is_measured_again(run: Run) -> None:
    measure_all(run, 1, Rank())
    whole = files(run)
    stamps = {path: path.stat().st_mtime_ns for path in run.output.rglob("*.npz")}
    gone = record_path(run.output, "ssim", run.pairs[2].clip.name)
    gone.unlink()
    assert [(task.pair.clip.name, task.metrics) for task in run.tasks()] == [(run.pairs[2].clip.name, ("ssim",))]
    measure_all(run, 1, Rank())
    changed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [gone]
    assert files(run).keys() == whole.keys()
    remade = replace(run.pairs[1], sha256="0" * 64)
    other = replace(run, pairs=(run.pairs[0], remade, *run.pairs[2:]))
    assert [task.pair.clip.name for task in other.tasks()] == [remade.clip.name]
    with pytest.raises(InputError, match="1 records of 'psnr' are gone"):
        other.records("psnr")


def test_another_version_of_a_metric_measures_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_all(run, 1, Rank())
    assert not list(run.tasks())
    monkeypatch.setattr(PSNR, "version", 2)
    assert [task.metrics for task in run.tasks()] == [("psnr",)] * 4


def test_records_tell_the_weights_that_measured_them(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / NANO_FACE.file).write_bytes(content)
    one, other = (measured_by("csim_nano", tmp_path / name) for name in ("one", "other"))
    assert one != other and one.split(" ")[0] == other.split(" ")[0] == str(METRICS["csim_nano"].version)
    assert measured_by("psnr", tmp_path / "one") == measured_by("psnr", None) == str(PSNR.version)


def test_a_clip_that_fails_is_named_and_the_others_are_kept(run: Run, world: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(world, tmp_path / "changed"))
    first, second = run.pairs[0], run.pairs[1]
    video = changed / first.clip.video
    shutil.copy(changed / second.clip.video, video)
    pairs = tuple(replace(pair, reference=changed / pair.clip.video) for pair in run.pairs)
    broken = replace(run, references=changed, pairs=pairs)
    with pytest.raises(InputError, match=rf"^1 of 4 clips could not be measured: '{first.clip.name}': reference"):
        measure_all(broken, 1, Rank())
    assert len(files(broken)) == 6
    damaged = record_path(run.output, "psnr", second.clip.name)
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(InputError, match="is damaged"):
        list(broken.tasks())


class Loudness(PSNR):
    """A metric of one video that hears: the sound's root mean square."""

    name = "loudness"
    values = (Value("loudness", "", "reference", "Root mean square."),)
    paired, hears = False, True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        assert reference is None
        return {"loudness": np.sqrt(np.mean(video.sound**2)), "frames": np.array(len(video.frames))}

    def summarise(self, records: list[Record]) -> dict[str, float]:
        return mean_over_clips(records, ("loudness",))


def test_sides_of_a_paired_and_of_a_hearing_metric(clips: list[Clip]) -> None:
    real = clips[0]
    quiet = real.with_sound(real.sound * np.float32(0.5))
    sides = measure_sides(Loudness(), quiet, real, np.full(200_000, 0.25, np.float32))
    assert set(sides) == {Side.PREDICTION, Side.TRUTH, Side.FLOOR, Side.CONTROL}
    assert float(sides[Side.PREDICTION]["loudness"]) == pytest.approx(0.5 * float(sides[Side.TRUTH]["loudness"]))
    assert float(sides[Side.CONTROL]["loudness"]) == pytest.approx(0.25)
    assert int(sides[Side.FLOOR]["frames"]) == len(real.frames) - len(real.frames) // 2
    assert Side.CONTROL not in measure_sides(Loudness(), quiet, real, None)
    paired = measure_sides(PSNR(), real, real, np.zeros(100, np.float32))
    assert set(paired) == {Side.PREDICTION, Side.FLOOR}
    assert float(paired[Side.PREDICTION]["psnr"]) == 100 > float(paired[Side.FLOOR]["psnr"]) > 20


def test_measurements_of_references_are_taken_over(run: Run, same: Path, tmp_path: Path) -> None:
    measure_all(run, 1, Rank())
    mark = record_path(run.output, "psnr", run.pairs[0].clip.name)
    before = load_record(mark, measured_by("psnr", None))
    assert before is not None
    before[Side.FLOOR]["psnr"] = np.array(12.5)
    save_record(mark, before, measured_by("psnr", None), run.pairs[0].sha256)
    pairs = tuple(pair_up(run.protocol, run.references, same))
    other = replace(run, pairs=pairs, output=tmp_path / "other", reuse=run.output)
    measure_all(other, 1, Rank())
    after = other.records("psnr")[0]
    assert float(after[Side.FLOOR]["psnr"]) == 12.5
    assert float(after[Side.PREDICTION]["psnr"]) == 100 > float(before[Side.PREDICTION]["psnr"])


def test_records_hold_what_was_measured(run: Run) -> None:
    measure_all(run, 1, Rank())
    pair = run.pairs[0]
    sides = load_record(record_path(run.output, "psnr", pair.clip.name), measured_by("psnr", None), pair.sha256)
    assert sides is not None
    expected = PSNR().measure(
        run.protocol.prediction(pair.clip, pair.prediction, run.references),
        run.protocol.reference(pair.clip, run.references),
    )
    assert float(sides[Side.PREDICTION]["psnr"]) == float(expected["psnr"])
