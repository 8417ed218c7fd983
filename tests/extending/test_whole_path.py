"""The whole path on each kind of Wan 2.2 base: prepare without CLIP, train and validate, generate, reproduce."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fantasytalking.data.features import load_features
from fantasytalking.inference.validation_sampler import VIDEO_FILE, PipelineValidationSampler
from fantasytalking.media import read_video
from fantasytalking.models.experts import Expert
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE
from fantasytalking.training.holdout_loss import HOLDOUT_LOG_FILE
from fantasytalking.training.trainer import Trainer
from tests.data.preparation_runs import run_in_process, small_config
from tests.helpers.tiny_wan22 import (
    BOUNDARY,
    WAN_5B,
    WAN_A14B,
    add_preset,
    save_5b,
    save_a14b,
    train_config,
    use_configs,
)
from tests.inference.cli_runner import run_infer

pytest.importorskip("mediapipe")

SHOWN = {
    "validation__interval": 1,
    "validation__image": DEMO_FOLDER / DEMO_PORTRAIT_FILE,
    "validation__audio": DEMO_FOLDER / DEMO_SPEECH_FILE,
    "validation__max_seconds": 0.3,
    "validation__num_inference_steps": 1,
}
KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], list[Expert | None]]] = {
    "tiny-5b": (save_5b, WAN_5B, {"vae": {"scale_factor_spatial": 16}}, [None]),
    "tiny-a14b": (save_a14b, WAN_A14B, {"boundary_ratio": BOUNDARY}, list(Expert)),
}


@pytest.mark.parametrize("preset", ["tiny-5b", pytest.param("tiny-a14b", marks=pytest.mark.slow)])
def test_a_corpus_becomes_a_talking_video(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, sizes, model, experts = KINDS[preset]
    base = save(tmp_path / "base")
    add_preset(use_configs(monkeypatch, tmp_path / "configs"), preset, base, sizes, **model)

    (tmp_path / "videos").mkdir()
    shutil.copy(DEMO_FOLDER / "talking.mp4", tmp_path / "videos")
    corpus = tmp_path / "corpus"
    records, _ = run_in_process(tmp_path / "videos", corpus, small_config(base, image_tokens=False))
    assert records and load_features(corpus / records[0].features).image is None

    adapters = {"adapter": None, "adapter_2": None}
    infer = tmp_path / "infer.yaml"
    for expert, name in zip(experts, adapters, strict=False):
        OmegaConf.save(OmegaConf.create({"model": preset, "max_text_tokens": 8, **adapters}), infer)
        changes = SHOWN | {"stage__name": "stage2", "stage__alignment": "frame", "stage__loss__weight": "lip"}
        changes |= {"validation__infer_config": infer, "batch_size": 1, "stage__steps": 1}
        changes |= {"mixed_precision": "bf16", "gradient_checkpointing": True}
        changes |= {"holdout__interval": 1, "holdout__manifests": f"[{corpus / 'manifest.jsonl'}]"}
        changes |= {} if expert is None else {"stage__expert": expert.value}
        config = train_config(preset, tmp_path / f"run-{name}", corpus / "manifest.jsonl", base, **changes)
        adapters[name] = str(Trainer(config, PipelineValidationSampler(config)).train())
        made = Path(config.output) / "validation" / "step-00000001" / VIDEO_FILE
        assert read_video(made).frames.shape[1:] == (64, 64, 3)
        measured = json.loads((Path(config.output) / HOLDOUT_LOG_FILE).read_text())["sigmas"]
        assert config.sigma_range[0] < min(measured) < max(measured) < config.sigma_range[1]

    OmegaConf.save(OmegaConf.create({"model": preset, "max_text_tokens": 8, **adapters}), infer)
    output = tmp_path / "video.mp4"
    inputs = ["--image", DEMO_FOLDER / DEMO_PORTRAIT_FILE, "--audio", DEMO_FOLDER / DEMO_SPEECH_FILE]
    options = ["--size", "64", "--max-seconds", "0.3", "--num-inference-steps", "3", "--output", output]
    done = run_infer(capsys, "--config", infer, *inputs, *options)
    assert done.code == 0, done.err
    assert read_video(output).frames.shape[1:] == (64, 64, 3)
    hashes = json.loads(output.with_suffix(".json").read_text())["hashes"]
    assert {"adapter", "adapter_2"} & hashes.keys() == {name for name, path in adapters.items() if path}
    again = run_infer(capsys, "--reproduce", output.with_suffix(".json"))
    assert again.code == 0 and "the same bits as recorded" in again.out, again.err
