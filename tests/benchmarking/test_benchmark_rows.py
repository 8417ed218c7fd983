"""Benchmark rows: alternating variants, counted operations, and ratios to the first variant."""

import shutil
import time

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fantasytalking.benchmarking import compiled_step
from fantasytalking.benchmarking.evaluation_throughput import PERCEPTION_ROW, benchmark_evaluation
from fantasytalking.benchmarking.guided_step import GuidedStepSize, benchmark_guided_step
from fantasytalking.benchmarking.interleaved_timing import count_flops, time_interleaved
from fantasytalking.benchmarking.tracking import benchmark_tracking
from fantasytalking.benchmarking.training_step import TrainingStepSize, benchmark_training_step
from fantasytalking.evaluation.registry import METRICS
from fantasytalking.media import read_video
from fantasytalking.models.presets import load_model_config, transformer_kwargs
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus


def test_workloads_alternate_and_are_compared_by_round():
    order: list[str] = []

    def workload(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    timings = time_interleaved(
        {"fast": lambda: workload("fast", 0.002), "slow": lambda: workload("slow", 0.02)}, torch.device("cpu"), rounds=3
    )
    assert order[:8] == ["fast", "slow"] * 4
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert timings[0].ratios == [1.0] * 3
    assert timings[1].ratio > 3


def test_operations_of_matrix_products_are_counted():
    first, second = torch.randn(4, 8), torch.randn(8, 16)
    assert count_flops(lambda: first @ second) == 2 * 4 * 8 * 16


@pytest.mark.parametrize("masked", [False, True])
def test_operations_of_attention_are_counted(masked: bool):
    query, key = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 5, 8)
    mask = torch.ones(12, 5, dtype=torch.bool) if masked else None
    with torch.no_grad():
        counted = count_flops(lambda: scaled_dot_product_attention(query, key, key, attn_mask=mask))
    assert counted == 2 * (2 * 2 * 12 * 5 * 8)


def test_every_variant_of_the_guided_step_row_saves_operations():
    size = GuidedStepSize("nano", layers=2, latents=(5, 8, 8), rounds=1, matrix_side=256)
    table = benchmark_guided_step(size, torch.device("cpu"), [torch.float32, torch.bfloat16])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    naive, ours, reused, together, fewer, half, wide = rows
    operations = [float(row[4]) for row in rows]
    assert operations[0] == 1 < operations[1]
    assert operations[3] < operations[2] < operations[1]
    assert operations[3] < 1 and len(set(operations[3:])) == 1, (
        "variants with fewer passes have the same matrix products"
    )
    assert all(float(row[6]) < 1e-5 for row in (naive, ours, reused, together, fewer))
    assert "fewer passes" in fewer[0] and "fewer passes" in wide[0]
    assert "attention in float32" in wide[0] and 1e-5 < float(wide[6]) < 0.3 > float(half[6]) > 1e-5


@pytest.mark.slow
def test_the_training_step_row_trains_the_stated_parameters():
    size = TrainingStepSize("nano", layers=12, latents=(3, 4, 4), batch_size=2, rounds=1, gradient_checkpointing=False)
    table = benchmark_training_step(size, torch.device("cpu"), torch.float32)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    adapters, lora, everything = rows[1:]
    assert [row[0] for row in rows[1:]] == [
        "adapters (audio, face, motion)",
        "adapters and LoRA of rank 64",
        "everything",
    ]
    with torch.device("meta"):
        arguments = {**transformer_kwargs(load_model_config("nano")), "num_layers": size.layers}
        model = FantasyTalkingTransformer3DModel(**arguments)
    counts = {name: value.numel() / 1e6 for name, value in model.named_parameters()}
    assert adapters[1] == f"{sum(count for name, count in counts.items() if adapter_module_of(name)):.1f} M"
    assert everything[1] == f"{sum(counts.values()):.1f} M"
    trained, memory = ([float(row[column].split()[0]) for row in rows[1:]] for column in (1, 6))
    assert trained[0] < trained[1] < trained[2]
    assert memory[2] > memory[0], "includes gradients and moments of the base"
    clips = [float(row[3]) for row in rows[1:]]
    assert min(clips) > 0 and adapters[4] == "1.00"
    for row, clips_per_second in zip((lora, everything), clips[1:], strict=True):
        assert float(row[4]) == pytest.approx(clips[0] / clips_per_second, rel=0.01, abs=0.006), (
            "the ratio is of the seconds"
        )
        assert row[5] == f"{row[4]} to {row[4]}", "one round has no spread"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_compiled_step_row_has_three_variants(monkeypatch: pytest.MonkeyPatch):
    small = TrainingStepSize("nano", layers=1, latents=(2, 4, 4), batch_size=1, rounds=1, gradient_checkpointing=False)
    monkeypatch.setattr(compiled_step, "NANO_SIZE", small)
    table = compiled_step.benchmark_compiled_step(torch.device("cpu"), torch.bfloat16)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert [row[0].split(":")[0] for row in rows[1:]] == [
        "PyTorch's attention",
        "the trainer's",
        "the same, compiled blocks",
    ]
    assert len({row[1] for row in rows[1:]}) == 1 and "bfloat16" in table


@pytest.mark.slow
def test_the_tracking_row_uses_the_same_frames_for_all_variants(tmp_path):
    for _ in make_corpus(CorpusPlan(range(1), ["Pip."], size=128), tmp_path):
        pass
    video = next(tmp_path.glob("id*/video.mp4"))
    table = benchmark_tracking(video, rounds=1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    assert [row[0] for row in rows] == [
        "bare FaceMesh",
        "tracking with lip masks",
        "tracking, one process",
        "tracking, two processes",
    ]
    assert table.startswith(f"{len(read_video(video).frames)} frames of 128 x 128")
    speed, ratio = ([float(row[column]) for row in rows] for column in (1, 2))
    assert min(speed) > 0 and (ratio[0], ratio[2]) == (1, 1)
    for ours, reference in ((1, 0), (3, 2)):
        assert ratio[ours] == pytest.approx(speed[ours] / speed[reference], rel=0.02, abs=0.01)


@pytest.mark.slow
def test_the_evaluation_row_measures_every_metric_without_weights():
    table = benchmark_evaluation(frames=20, size=96, rounds=1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:3]] == ["one process", "two processes"]
    assert all(float(row[1]) > 0 for row in rows[1:3])
    parts = {row[0]: float(row[1]) for row in rows[4:]}
    assert parts.keys() == {name for name, metric in METRICS.items() if not metric.required_weights} | {PERCEPTION_ROW}
    assert {"theval", "dis", "psnr"} <= parts.keys() and not {"fid", "syncnet"} & parts.keys()
