"""run.json: runs that were started with the keys of an earlier release resume, and other configurations are refused.

runs_before_renaming/ has files that the release before the renaming wrote.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from fantasytalking.common.config import config_from_dict, load_config, preset_path
from fantasytalking.common.config_aliases import RENAMED_KEYS
from fantasytalking.common.errors import ErrorCode
from fantasytalking.training.config import MixedPrecision, TrainConfig
from fantasytalking.training.run_guard import MUTABLE_ON_RESUME, check_same_config
from tests.helpers.errors import raises_input_error

OLD_RUNS = {path.stem: path for path in (Path(__file__).parent / "runs_before_renaming").glob("*.json")}


def old_config(run: str) -> TrainConfig:
    """The configuration of an old run, loaded by its old keys."""
    nested: dict[str, Any] = {"output": "run", "stage": {"steps": 1}}
    for key, value in json.loads(OLD_RUNS[run].read_text()).items():
        if key != "global batch":
            *sections, name = key.split(".")
            target = nested
            for section in sections:
                target = target.setdefault(section, {})
            target[name] = value
    return config_from_dict(TrainConfig, nested, run)


def renamed_keys(schema: Any, old_prefix: str = "", new_prefix: str = "") -> dict[str, str]:
    """Every renamed key of a training run: old path -> new path, without sections."""
    found: dict[str, str] = {}
    olds = {new: old for old, new in RENAMED_KEYS.get(schema.__name__, {}).items()}
    hints = get_type_hints(schema)
    for field in fields(schema):
        old, new = f"{old_prefix}{olds.get(field.name, field.name)}", f"{new_prefix}{field.name}"
        section = next((kind for kind in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(kind)), None)
        if section is not None:
            found.update(renamed_keys(section, f"{old}.", f"{new}."))
        elif old != new:
            found[old] = new
    return found


def is_mutable(key: str) -> bool:
    return any(key == mutable or key.startswith(f"{mutable}.") for mutable in MUTABLE_ON_RESUME)


def test_old_runs_have_every_renamed_key():
    recorded = {key for path in OLD_RUNS.values() for key in json.loads(path.read_text())}
    assert {old for old, new in renamed_keys(TrainConfig).items() if not is_mutable(new)} <= recorded


@pytest.mark.parametrize("run", OLD_RUNS)
def test_an_old_run_resumes_and_its_run_json_stays(tmp_path: Path, run: str):
    text = OLD_RUNS[run].read_text()
    assert '"precision": "fp32"' in text
    (tmp_path / "run.json").write_text(text)
    config = old_config(run)
    assert config.mixed_precision is MixedPrecision.no
    check_same_config(tmp_path, 4, config)
    assert (tmp_path / "run.json").read_text() == text


@pytest.mark.parametrize("run", OLD_RUNS)
def test_a_changed_value_of_an_old_run_names_the_new_key(tmp_path: Path, run: str):
    recorded, config = json.loads(OLD_RUNS[run].read_text()), old_config(run)
    changed = {old: new for old, new in renamed_keys(TrainConfig).items() if old in recorded and not is_mutable(new)}
    assert len(changed) > 15
    for old, new in changed.items():
        (tmp_path / "run.json").write_text(json.dumps({**recorded, old: "another"}))
        with raises_input_error(ErrorCode.conflict, new):
            check_same_config(tmp_path, 4, config)


def test_what_may_change_and_what_may_not(tmp_path: Path):
    preset = preset_path("nano", "stage2")
    config = load_config(TrainConfig, preset)
    check_same_config(tmp_path, 4, config)
    mutable = ["batch_size=7", "gradient_accumulation_steps=3", "checkpoints.interval=9", "logging.interval=3"]
    mutable += ["validation.motion=0.1", "holdout.max_clips=3", "stage.steps=9", "data.num_workers=5"]
    mutable += [
        "optimizer.learning_rate=0.1",
        "optimizer.max_grad_norm=0.1",
        "attention_backend=native",
        "compile=true",
    ]
    mutable += ["data.manifests=[moved.jsonl]", "data.exclude=[clip]", "optimizer.max_nonfinite_steps=3"]
    mutable += ["data.max_unreadable_fraction=0.5", "gradient_checkpointing=true", "output=elsewhere"]
    check_same_config(tmp_path, 4, load_config(TrainConfig, preset, mutable))
    with raises_input_error(ErrorCode.conflict, "optimizer.beta2", 0.5):
        check_same_config(tmp_path, 4, load_config(TrainConfig, preset, ["optimizer.beta2=0.5"]))
    with raises_input_error(ErrorCode.conflict, "global batch", 8):
        check_same_config(tmp_path, 8, config)


def test_an_objective_that_is_derived_or_named_is_the_same_run(tmp_path: Path):
    check_same_config(tmp_path, 4, load_config(TrainConfig, preset_path("nano", "stage3")))
    named = load_config(TrainConfig, preset_path("nano", "stage3"), ["stage.objective=distillation"])
    check_same_config(tmp_path, 4, named)


def test_a_damaged_run_json_raises(tmp_path: Path):
    (tmp_path / "run.json").write_text("{")
    with raises_input_error(ErrorCode.malformed_file, "run.json", str(tmp_path / "run.json")):
        check_same_config(tmp_path, 4, load_config(TrainConfig, preset_path("nano", "stage2")))
