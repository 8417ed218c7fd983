"""Renamed configuration keys: old ones work, warn once, and restore what fingerprints were computed from."""

import logging
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from fantasytalking.common.config import load_config
from fantasytalking.common.config_aliases import RENAMED_KEYS, _warn_once, rename_old_keys, restore_old_keys
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
from fantasytalking.inference.config import InferConfig
from fantasytalking.nano.ablation.config import AblationConfig
from fantasytalking.nano.config import BuildConfig
from fantasytalking.training.config import TrainConfig
from tests.helpers.errors import raises_input_error

PRESETS = {
    TrainConfig: "configs/nano/stage1.yaml",
    InferConfig: "configs/nano/infer.yaml",
    PreparationConfig: "configs/nano/data.yaml",
}
ROOTS = (AblationConfig, BenchmarkConfig, BuildConfig, InferConfig, PreparationConfig, TrainConfig)


def schemas() -> dict[str, Any]:
    """Every dataclass of the configurations, by name."""
    found: dict[str, Any] = {}
    pending: list[Any] = list(ROOTS)
    while pending:
        kind = pending.pop()
        pending += get_args(kind)
        if is_dataclass(kind) and kind.__name__ not in found:
            found[kind.__name__] = kind
            pending += get_type_hints(kind).values()
    return found


def test_every_alias_leads_to_a_key_and_hides_none() -> None:
    known = schemas()
    assert RENAMED_KEYS.keys() <= known.keys()
    for name, keys in RENAMED_KEYS.items():
        names = {field.name for field in fields(known[name])}
        assert set(keys.values()) <= names and not set(keys) & names, name
        assert len(set(keys.values())) == len(keys), name


@pytest.mark.parametrize(
    ("schema", "old", "new"),
    [
        (
            TrainConfig,
            ["optimiser.warm_up=7", "accumulation=2"],
            ["optimizer.warmup_steps=7", "gradient_accumulation_steps=2"],
        ),
        (TrainConfig, ["precision=fp32"], ["mixed_precision=no"]),
        (TrainConfig, ["precision=bf16"], ["mixed_precision=bf16"]),
        (
            InferConfig,
            ["savings.weights=full", "steps=4"],
            ["optimizations.quantization=none", "num_inference_steps=4"],
        ),
        (InferConfig, ["guidance.text.share=0.5"], ["guidance.text.stop=0.5"]),
        (InferConfig, ["guidance.keep_colour=0.3"], ["guidance.color_rescale=0.3"]),
        (PreparationConfig, ["components=a", "buckets=[64x64]"], ["base=a", "buckets=[64x64]"]),
    ],
)
def test_old_keys_mean_the_new_ones(schema: type, old: list[str], new: list[str]) -> None:
    assert load_config(schema, PRESETS[schema], old) == load_config(schema, PRESETS[schema], new)


def test_a_renamed_key_warns_once_and_names_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    _warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_config(TrainConfig, PRESETS[TrainConfig], ["optimiser.clip_norm=2"])
    lines = [record.getMessage() for record in caplog.records if "clip_norm" in record.getMessage()]
    assert len(lines) == 1 and "'optimizer.max_grad_norm'" in lines[0]


def test_both_names_of_a_key_are_refused() -> None:
    with raises_input_error(ErrorCode.conflict, "batch_size"):
        rename_old_keys(TrainConfig, {"batch": 1, "batch_size": 2}, "config")


def test_keys_are_renamed_inside_lists() -> None:
    values = {"rows": [{"name": "a", "train": ["x"]}]}
    assert rename_old_keys(AblationConfig, values, "config") == {"rows": [{"name": "a", "train_overrides": ["x"]}]}


def test_old_keys_are_restored_from_the_new_ones() -> None:
    config = load_config(InferConfig, None, ["optimizations.cache_threshold=0.2", "guidance.text.stop=0.5"])
    restored = restore_old_keys(InferConfig, asdict(config))
    assert restored["savings"]["threshold"] == 0.2 and restored["guidance"]["text"]["share"] == 0.5
    assert "optimizations" not in restored and restored["prompt"] == ""
