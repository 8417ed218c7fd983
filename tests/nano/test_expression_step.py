"""The steps of the build that make the expression encoder and fit the reader: what they leave, and that they resume."""

from pathlib import Path

import numpy as np

from fantasytalking.config import CONFIGS, load_config
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig
from fantasytalking.nano.config import BuildConfig, FitConfig
from fantasytalking.nano.expression import ExpressionConfig
from fantasytalking.nano.expression_step import fit_expression_reader, reader_path, train_expression_encoder
from fantasytalking.nano.workshop import Workshop
from fantasytalking.perception.expression_reader import NAMES, ExpressionReader

SMOKE = CONFIGS / "nano" / "build_smoke.yaml"


def test_the_steps_leave_an_encoder_and_a_reader(tmp_path: Path) -> None:
    settings = [f"work={tmp_path / 'work'}", "processes=1", "device=cpu", "size=96", "closeness=1.2"]
    shop = Workshop(load_config(BuildConfig, SMOKE, settings), tmp_path / "nano")
    network = ExpressionEncoderConfig(channels=[8, 8, 8, 8], hidden=8)
    run = FitConfig(steps=3, batch=4, learning_rate=0.001)
    config = ExpressionConfig(people=4, held_out=4, poses=4, network=network, fit=run)
    config.validate()
    found = train_expression_encoder(shop, config)
    assert found["steps"] == 3 and {*NAMES, "identity_accuracy"} < found.keys() and found["identity_chance"] == 0.25
    folder = shop.components / "expression_encoder"
    weights = (folder / "model.safetensors").read_bytes()
    assert ExpressionEncoder.from_pretrained(folder).dims == (6, 6, 8, 16)
    read = fit_expression_reader(shop, config)
    assert read.keys() == set(NAMES)
    assert ExpressionReader.load(reader_path(shop)).read(np.full((2, 478, 3), np.nan)).shape == (2, len(NAMES))
    drawn = {path: path.stat().st_mtime_ns for path in (shop.work / "expression_encoder").rglob("*.safetensors")}
    assert len(drawn) == 12, "training, held-out and the reader's people"
    again = train_expression_encoder(shop, config)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn, "nobody is drawn twice"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert again["yaw"] == found["yaw"]
