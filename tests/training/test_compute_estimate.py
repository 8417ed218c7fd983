"""Compute estimate: operations of a real step, and values out of range."""

import pytest
import torch

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.training.compute_estimate import (
    TRAINABLE_SETS,
    ComputeEstimateConfig,
    FlopCounter,
    build_shallow_models,
    compute_estimate_table,
    describe_time,
    estimate_flops,
)
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.gpus import GPUS, find_gpu
from fantasytalking.training.memory_estimate import PAPER_CLIP_SIZE, ClipSize, build_meta_model, meta_inputs
from tests.helpers.errors import raises_input_error

SIZE = ClipSize(64, 64, 9, 25.0)


def nano(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, CONFIGS_FOLDER / "nano" / "stage2.yaml", ["batch_size=1", *overrides])


def test_flop_counter_counts_forward_and_backward():
    first, second = torch.randn(4, 8, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    with FlopCounter() as counter:
        (first @ second).sum().backward()
    assert counter.total_flops == 3 * 2 * 4 * 8 * 16


def test_extrapolated_flops_equal_those_of_the_full_model():
    config = nano("gradient_checkpointing=false", "stage.trainable=['*']")
    model = build_meta_model(config)
    latents, conditions = meta_inputs(config, SIZE, model, torch.float32)
    with torch.device("meta"), FlopCounter() as counter:
        model(latents, torch.zeros(1, device="meta"), conditions).sample.sum().backward()
    operations = estimate_flops(config, SIZE)
    assert operations.training_step == pytest.approx(counter.total_flops, rel=1e-3)
    again = estimate_flops(nano("gradient_checkpointing=true", "stage.trainable=['*']"), SIZE)
    recomputed = (again.training_step - counter.total_flops) / operations.forward
    assert 0.85 < recomputed < 1, "only the blocks are recomputed"


def test_training_everything_takes_three_forward_passes():
    config = nano("gradient_checkpointing=false", "stage.trainable=['*']")
    models = build_shallow_models(config)
    operations = estimate_flops(config, SIZE, models)
    assert operations.training_step / operations.forward == pytest.approx(3, abs=0.05)
    larger = estimate_flops(config, SIZE._replace(width=1024, height=1024), models)
    assert larger.training_step > 16**2 * operations.training_step, "attention grows faster than the number of tokens"


def test_table_has_a_row_per_trained_set():
    table = compute_estimate_table(ComputeEstimateConfig(("nano",), (64,), 9, (1, 8), flops_per_second=1e9))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| nano")
    ]
    assert [row[2] for row in rows] == list(TRAINABLE_SETS)
    for value in (3, 6, 7):  # parameters, and the seconds of both steps
        adapters, with_lora, everything = (float(row[value].removesuffix(" M")) for row in rows)
        assert 0 < adapters == everything < with_lora, "stage 2 of nano trains everything"


@pytest.mark.slow
def test_table_has_a_row_per_setting_and_grows_with_resolution():
    table = compute_estimate_table(ComputeEstimateConfig(("wan1.3b",), (256, 512), 17, (1, 8), 100e12))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| wan")]
    assert [row[2] for row in rows] == list(TRAINABLE_SETS) * 2
    for small, large in zip(rows[:3], rows[3:], strict=True):
        assert float(small[4]) < float(large[4]) and 4 * float(small[6]) < float(large[6]) + 0.05
        assert float(small[5]) < float(small[4])
    assert float(rows[0][4]) < float(rows[1][4]) < float(rows[2][4])


@pytest.mark.slow
def test_half_the_rate_doubles_the_time():
    whole, half = (
        compute_estimate_table(ComputeEstimateConfig(("wan1.3b",), (512,), 17, (1,), rate)) for rate in (100e12, 50e12)
    )
    seconds = [float(table.splitlines()[-1].split("|")[7]) for table in (whole, half)]
    assert seconds[1] == pytest.approx(2 * seconds[0], abs=0.02)


@pytest.mark.parametrize(
    ("field", "value", "refused"),
    [("resolutions", (32,), 32), ("num_gpus", (0,), 0), ("flops_per_second", 0.0, 0.0)],
)
def test_values_out_of_range_raise(field: str, value: object, refused: float):
    with raises_input_error(ErrorCode.out_of_range, field, refused):
        ComputeEstimateConfig(**{field: value}).validate()


def test_time_follows_from_the_rate_of_a_gpu():
    """Wan's published time of T2V-1.3B on an RTX 4090: 50 guided steps of two passes take 261.4 s."""
    config = nano()
    operations = estimate_flops(config, PAPER_CLIP_SIZE).training_step * config.gradient_accumulation_steps
    seconds = operations / GPUS["RTX4090"].flops_per_second
    assert f": {seconds:.2f} s per step" in describe_time(config, 2, "RTX 4090")
    assert find_gpu("rtx-4090") is GPUS["RTX4090"]
    assert GPUS["RTX4090"].flops_per_second == pytest.approx(2 * 50 * 2.83e14 / 261.4, rel=0.01)
    with raises_input_error(ErrorCode.invalid_choice, "gpu", "abacus"):
        describe_time(config, 1, "abacus")
