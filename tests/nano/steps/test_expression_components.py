"""Tests of the build steps of the expression encoder and the expression reader."""

from pathlib import Path

import numpy as np

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS, ExpressionReader
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.steps.expression_components import (
    expression_reader_path,
    fit_expression_reader,
    train_expression_encoder,
)

SMOKE = CONFIGS_FOLDER / "nano" / "build_smoke.yaml"


def test_the_steps_write_an_encoder_and_a_reader(tmp_path: Path) -> None:
    settings = [f"work_dir={tmp_path / 'work'}", "num_processes=1", "device=cpu", "image_size=96", "zoom=1.2"]
    context = BuildContext(load_config(BuildConfig, SMOKE, settings), tmp_path / "nano")
    found = train_expression_encoder(context)
    assert (
        found["steps"] == 3
        and {*EXPRESSION_PARAMETERS, "identity_accuracy"} < found.keys()
        and found["identity_chance"] == 0.25
    )
    folder = context.expression_encoder
    weights = (folder / "model.safetensors").read_bytes()
    assert ExpressionEncoder.from_pretrained(folder).dims == (6, 6, 8, 16)
    read = fit_expression_reader(context)
    assert read.keys() == set(EXPRESSION_PARAMETERS)
    assert ExpressionReader.load(expression_reader_path(context)).read(np.full((2, 478, 3), np.nan)).shape == (
        2,
        len(EXPRESSION_PARAMETERS),
    )
    drawn = {
        path: path.stat().st_mtime_ns for path in (context.work_dir / "expression_encoder").rglob("[0-9]*.safetensors")
    }
    assert len(drawn) == 12, "training, held-out and the reader's people"
    again = train_expression_encoder(context)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn, "nobody is drawn twice"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert again["yaw"] == found["yaw"]
