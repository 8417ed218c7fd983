"""Tests of ablations: settings of the rows, resuming, and a run from training to the table."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.nano.ablation.config import AblationConfig
from fantasytalking.nano.ablation.experiment import ROW_SETTINGS_FILE, AblationRun, AblationStudy, check_row_settings
from tests.helpers.errors import raises_input_error


def load(*overrides: str) -> AblationConfig:
    return load_config(AblationConfig, preset_path("nano", "ablation"), overrides)


@pytest.mark.parametrize(("name", "base"), [("ablation", "base,"), ("ablation_adapters", "")])
def test_the_rows_are_the_papers(name: str, base: str) -> None:
    rows = {row.name: row for row in load_config(AblationConfig, preset_path("nano", name), []).rows}
    assert rows["clip level only"].stage1_fraction == 1 and rows["frame level only"].stage1_fraction == 0
    assert rows["both stages"].num_seeds == 3 and rows["both stages"].train_overrides == []
    assert rows["both without lip mask"].train_overrides == ["stage.loss.weight=uniform"]
    assert rows["both without face attention"].train_overrides == [f"stage.trainable=[{base}audio,motion]"]
    assert rows["both without motion module"].train_overrides == [f"stage.trainable=[{base}audio,face]"]


@pytest.mark.parametrize(
    ("override", "code", "field", "value"),
    [
        ("rows=[{name: a, stage1_fraction: 2}]", ErrorCode.out_of_range, "rows.a.stage1_fraction", 2),
        ("rows=[{name: a, num_seeds: 0}]", ErrorCode.out_of_range, "rows.a.num_seeds", 0),
        ("rows=[{name: a, stage1_fraction: 1}, {name: a, stage1_fraction: 0}]", ErrorCode.conflict, "rows", "a"),
        (
            "rows=[{name: a, stage1_fraction: 1, portrait_stage: true}]",
            ErrorCode.conflict,
            "rows.a.stage1_fraction",
            1.0,
        ),
        ("people=2", ErrorCode.conflict, "people", 2),
        ("num_clips=201", ErrorCode.out_of_range, "num_clips", 201),
        ("motion_control.row=nobody", ErrorCode.invalid_choice, "motion_control.row", "nobody"),
        (
            "motion_control.intensities=[0.1, 1.5]",
            ErrorCode.out_of_range,
            "motion_control.intensities",
            [0.1, 1.5],
        ),
        (
            "motion_control.intensities=[0.5, 0.1]",
            ErrorCode.out_of_range,
            "motion_control.intensities",
            [0.5, 0.1],
        ),
        ("motion_control.max_seconds=0", ErrorCode.out_of_range, "motion_control.max_seconds", 0),
        ("steps=1", ErrorCode.out_of_range, "steps", 1),
    ],
)
def test_invalid_settings_are_rejected(override: str, code: ErrorCode, field: str, value: object) -> None:
    with raises_input_error(code, field, value):
        load(override)


def test_rows_may_have_the_framings_of_two_thirds_to_one_and_a_half_of_the_corpus() -> None:
    config = load_config(AblationConfig, preset_path("nano", "framings"), [])
    zooms = [row.framing.zoom / config.zoom for row in config.rows if row.framing is not None]
    assert len(zooms) == len(config.rows) and not config.trains
    assert min(zooms) == pytest.approx(2 / 3, abs=0.01) and max(zooms) == pytest.approx(1.5, abs=0.01)
    with raises_input_error(ErrorCode.conflict, "rows.a.framing", "expression"):
        load("task=expression", "rows=[{name: a, framing: {zoom: 1.2}}]", "motion_control=null")
    with raises_input_error(ErrorCode.out_of_range, "framing.zoom", 3.0):
        load("rows=[{name: a, framing: {zoom: 3}}]", "motion_control=null", "steps=2")


def test_unknown_keys_of_a_row_are_rejected() -> None:
    with pytest.raises(InputError, match="seed"):
        load("rows=[{name: a, stage1_fraction: 1, seed: 3}]")


def test_motion_control_of_other_durations_uses_other_folders() -> None:
    assert load("motion_control.max_seconds=4").control_folder != load("motion_control.max_seconds=10").control_folder
    assert load("motion_control.max_seconds=null").control_seconds == load().max_seconds
    assert load("motion_control=null").control_seconds == load().max_seconds


def test_rows_without_training_need_no_steps_and_no_corpus() -> None:
    config = load_config(AblationConfig, preset_path("nano", "savings"), [])
    assert not config.trains and config.steps == 0
    assert AblationStudy(config, 1)._train_run(AblationRun(config.rows[0], 0)) is None
    with raises_input_error(ErrorCode.out_of_range, "steps", 0):
        load("steps=0")


def test_a_missing_base_is_rejected_before_anything_is_written(tmp_path: Path) -> None:
    config = load(f"work_dir={tmp_path / 'work'}", f"base={tmp_path / 'nano'}")
    with raises_input_error(ErrorCode.missing_weights, "base", str(tmp_path / "nano")) as caught:
        AblationStudy(config, 1).run()
    assert "build-nano" in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_a_row_resumes_only_with_the_settings_it_was_started_with(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    config = replace(load(), base=str(tmp_path / "model"))
    row = config.rows[0]
    check_row_settings(tmp_path, AblationRun(row, 0), config)
    noted = (tmp_path / ROW_SETTINGS_FILE).read_bytes()
    # Other rows and the work folder do not matter.
    check_row_settings(
        tmp_path, AblationRun(row, 0), replace(config, rows=[row], motion_control=None, work_dir="elsewhere")
    )
    for trained, other in (
        (AblationRun(row, 0), replace(config, steps=config.steps + 1)),
        (AblationRun(row, 0), replace(config, train_overrides=[*config.train_overrides, "batch=2"])),
        (AblationRun(row, 0), replace(config, infer_overrides=["steps=1"])),
        (AblationRun(replace(row, stage1_fraction=0.75), 0), config),
        (AblationRun(row, 1), config),
    ):
        with raises_input_error(ErrorCode.output_exists, "work_dir", str(tmp_path)):
            check_row_settings(tmp_path, trained, other)
    weights.write_bytes(b"of a later training")
    with raises_input_error(ErrorCode.output_exists, "work_dir", str(tmp_path)):
        check_row_settings(tmp_path, AblationRun(row, 0), config)
    assert (tmp_path / ROW_SETTINGS_FILE).read_bytes() == noted


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_rows_are_trained_generated_evaluated_and_skipped_when_finished(tmp_path: Path) -> None:
    scripts = CONFIGS_FOLDER.parent / "scripts"
    work = tmp_path / "build"

    def run(script: str, *arguments: object, code: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, scripts / script, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stdout[-2000:] + ended.stderr[-3000:]
        return ended.stdout + ended.stderr

    smoke = [
        "--config",
        CONFIGS_FOLDER / "nano" / "build_smoke.yaml",
        "--output",
        tmp_path / "nano",
        f"work_dir={work}",
    ]
    run("build_nano.py", *smoke, "device=cpu")
    settings = [f"base={work / 'components'}", f"manifest={work / 'corpus' / 'manifest.jsonl'}", "num_clips=2"]
    settings += ["steps=4", f"work_dir={tmp_path / 'ablation'}", "metrics=[psnr,csim_nano,motion]"]
    settings += [
        "infer_overrides=[num_inference_steps=1]",
        "train_overrides=[batch_size=2,data.num_workers=0,optimizer.warmup_steps=0,checkpoints.interval=1]",
        "motion_control.row=both",
        "motion_control.max_seconds=1",
    ]
    settings += [
        "rows=[{name: both, stage1_fraction: 0.5, infer_overrides: [num_inference_steps=2]}, "
        "{name: frame only, stage1_fraction: 0}]"
    ]
    assert "step 2/2" in run("ablation.py", "--num-processes", 1, *settings)
    table = (tmp_path / "ablation" / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:3] == ["both", "frame only"]
    followed = (tmp_path / "ablation" / "control_1_seconds" / "both.md").read_text()
    assert "| expression, 1e-3 |" in followed and "| at 0.1 | at 0.5 | at 1 |" in followed
    frames = [
        {clip["frames"] for clip in json.loads((tmp_path / "ablation" / place).read_text())["clips"]}
        for place in ("protocol.json", "control_1_seconds/protocol.json")
    ]
    assert max(frames[0]) > max(frames[1]) == 25
    for folder, steps in (("both", 2), ("control_1_seconds/both_motion_0.1", 2), ("frame_only", 1)):
        for record in (tmp_path / "ablation" / folder / "videos").glob("*.json"):
            assert json.loads(record.read_text())["config"]["steps"] == steps, folder
    assert not (tmp_path / "ablation" / "frame_only" / "stage1").exists()
    assert "step 2/" not in run("ablation.py", "--num-processes", 1, *settings), "nothing is trained again"
    refused = run("ablation.py", "--num-processes", 1, *settings, "steps=6", code=2)
    assert "row 'both' in" in refused and "started with other settings" in refused and "step 2/" not in refused
    assert (tmp_path / "ablation" / "table.md").read_text() == table
