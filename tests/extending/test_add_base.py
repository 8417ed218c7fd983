"""The steps of docs/extending.md by which a base is added: a folder of YAML files, and no code."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.inference.config import InferConfig
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.models.parameter_counts import parameter_table
from fantasytalking.models.presets import load_model_config, model_presets
from fantasytalking.training.config import TrainConfig
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_wan22 import PORTRAIT_SIZES, WAN, copy_preset, use_configs

CHANNELS = {"wan1.3b": (36, 16), "wan2.2-5b": (48, 48), "wan2.2-a14b": (36, 16)}


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_copied_folder_is_a_preset(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = use_configs(monkeypatch, tmp_path / "configs")
    # 1. and 3. Copy the folder, and replace the preset's name
    folder = copy_preset(configs, kind, "mine")
    # 2. State the sizes of the base
    path, original = folder / "model.yaml", load_model_config(kind)
    sizes = dict(zip(("in_channels", "out_channels"), CHANNELS[kind], strict=True)) | {
        "image_dim": original.wan.image_dim
    }
    model = OmegaConf.merge(
        OmegaConf.load(path), {"base": "somebody/base", "wan": WAN | sizes, "portrait": PORTRAIT_SIZES}
    )
    OmegaConf.save(model, path)
    # 4. Count its parameters: its keys are diffusers' own
    assert "mine" in model_presets()
    assert any(line.startswith("| mine |") for line in parameter_table())
    # Every file of the preset is valid
    config = load_model_config("mine")
    replaces = kind == "wan2.2-5b"
    assert (config.image_conditioning is ImageConditioning.first_frame_replace) == replaces
    assert config.geometry.token_pixels == (32 if replaces else 16)
    preparation = load_config(PreparationConfig, preset_path("mine", "data"))
    preparation.check_geometry(config.geometry)
    assert preparation.image_tokens == (config.wan.image_dim is not None)
    stages = [load_config(TrainConfig, file) for file in sorted(folder.glob("stage*.yaml"))]
    assert len(stages) == (2 if kind == "wan2.2-a14b" else 3)
    assert all(stage.model == "mine" and stage.output.startswith("outputs/mine/") for stage in stages)
    infer = load_config(InferConfig, preset_path("mine", "infer"))
    assert infer.model == "mine" and (infer.adapter_2 is not None) == (config.boundary_ratio is not None)
    for size in infer.sizes:
        width, height = map(int, size.split("x"))
        config.geometry.check_size(height, width, "sizes", size)


def test_a_boundary_lies_between_the_noise_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_preset(use_configs(monkeypatch, tmp_path / "configs"), "wan2.2-a14b", "mine")
    path = folder / "model.yaml"
    path.write_text(path.read_text().replace("boundary_ratio: 0.9", "boundary_ratio: 900"))
    with raises_input_error(ErrorCode.malformed_file, "boundary_ratio", 900.0):
        load_model_config("mine")
