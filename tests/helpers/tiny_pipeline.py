"""One tiny model with random weights for all tests of inference: folders, a pipeline, a portrait, a sound."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig, ExpressionNetwork
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait
from fantasytalking.pipeline.speakers import DrivingExpression
from tests.helpers.shared_folder import shared_folder
from tests.helpers.tiny_components import IMAGE_DIM, TEXT_DIM, build_components
from tests.helpers.tiny_transformer import randomize_zero_init

SIZE = 32
DISTILLATION = DistillationSpec(4, 5.0, (1.0, 7.0), (1.0, 7.0), CfgOrder.text_first, 8)
EXPRESSION = ExpressionModuleConfig((2, 2, 3, 4), (0, 0, 2, 2), token_dim=16, width=16, depth=1, heads=2, head_dim=8)
WITHOUT_AUDIO_POSITIONS = asdict(load_model_config("nano").portrait) | {"audio_positions": 0}
"""The released windows have 15 tokens at 25 frames a second, and the released model tells none of them apart."""
FACE_RANGES = {"1": {"height": [0.3, 0.8], "x": [0.3, 0.7], "y": [0.3, 0.8]}}
"""As if the tiny model had been trained on faces of these sizes, at these places."""
LORA = LoraSpec(2, 2.0, ("attn1.to_q", "ffn.net.2"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A components folder with a tiny Wan transformer, whose adapter has the sizes of the nano preset."""

    def write(folder: Path) -> None:
        build_components(folder, audio_dim=load_model_config("nano").portrait.audio_dim)
        torch.manual_seed(0)
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=36,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=32,
            ffn_dim=64,
            num_layers=2,
            image_dim=IMAGE_DIM,
            added_kv_proj_dim=48,
        ).save_pretrained(folder / "transformer")

    return shared_folder(tmp_path_factory, "base", write)


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all/: everything trained, with motion_normaliser.json; audio/: audio alone; released/: with released windows."""

    def write(folder: Path) -> None:
        torch.manual_seed(1)
        model = load_from_wan(base, asdict(load_model_config("nano").portrait))
        randomize_zero_init(model, 0.3)
        described = AdapterConfig(["audio", "face", "motion"], "seconds", face_ranges=FACE_RANGES)
        save_adapter(model, folder / "all", described)
        constants = '{"expression_low": 1e-4, "expression_high": 1e-2, "body_low": 1e-3, "body_high": 0.1}'
        (folder / "all" / "motion_normaliser.json").write_text(constants)
        save_adapter(model, folder / "audio", AdapterConfig(["audio"], "seconds"))
        plain = load_from_wan(base, WITHOUT_AUDIO_POSITIONS)
        randomize_zero_init(plain, 0.3)
        save_adapter(plain, folder / "released", AdapterConfig(["audio"], "official"))

    return shared_folder(tmp_path_factory, "adapters", write)


@pytest.fixture(scope="session")
def expressive(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter by which videos can drive the faces, with the encoder that reads them."""

    def write(folder: Path) -> None:
        torch.manual_seed(3)
        model = load_from_wan(base, asdict(load_model_config("nano").portrait))
        ensure_expression_modules(model, EXPRESSION)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("expression_v_proj.weight"):
                    parameter.normal_(std=0.3)
        config = AdapterConfig(["expression"], "seconds", expression=EXPRESSION.to_dict())
        save_adapter(model, folder / "adapter", config)
        network = ExpressionNetwork(ExpressionEncoderConfig(list(EXPRESSION.dims), size=16, channels=[8, 8], hidden=8))
        ExpressionEncoder(network).save_pretrained(folder / "adapter" / "expression_encoder")

    return shared_folder(tmp_path_factory, "expressive", write) / "adapter"


@pytest.fixture(scope="session")
def driven(base: Path, adapters: Path, expressive: Path) -> FantasyTalkingPipeline:
    """As `pipe`, but its faces can be driven. Tests leave it as they find it."""
    return load_tiny_pipeline(base, adapters / "all", expressive)


def load_tiny_pipeline(
    base: Path,
    adapter: Path,
    expression_adapter: Path | None = None,
    module_config: dict[str, Any] | None = None,
) -> FantasyTalkingPipeline:
    pipe = FantasyTalkingPipeline.from_base(
        base,
        adapter,
        module_config=module_config or asdict(load_model_config("nano").portrait),
        expression_adapter=expression_adapter,
        text_length=12,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe(base: Path, adapters: Path) -> FantasyTalkingPipeline:
    """Tests leave it as they find it."""
    return load_tiny_pipeline(base, adapters / "all")


@pytest.fixture(scope="session")
def saved(pipe: FantasyTalkingPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pipeline, saved whole."""
    return shared_folder(tmp_path_factory, "saved", pipe.save_pretrained)


@pytest.fixture(scope="session")
def fast(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage 3 leaves of a saved pipeline: LoRA and guidance embedder in half precision."""

    def write(folder: Path) -> None:
        torch.manual_seed(2)
        model = load_from_wan(base, asdict(load_model_config("nano").portrait))
        model.add_guidance_embedder(DISTILLATION)
        add_lora(model, LORA, torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name or name.startswith("guidance_embedder.output"):
                    parameter.normal_(std=0.1)
        config = AdapterConfig(["guidance"], "seconds", distillation=DISTILLATION.to_dict(), lora=LORA.to_dict())
        save_adapter(model.half(), folder / "adapter", config)

    return shared_folder(tmp_path_factory, "fast", write) / "adapter"


@pytest.fixture(scope="session")
def portrait() -> Portrait:
    """Random colors with five points in them: no face is looked for in a `Portrait`."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    points = np.array([[[11, 12], [21, 12], [16, 17], [12, 22], [20, 22]]], np.float32)
    return Portrait(pixels, points, np.array([[8, 8, 24, 26]], np.float32))


@pytest.fixture(scope="session")
def couple() -> Portrait:
    """Two people side by side, twice as wide."""
    pixels = np.random.default_rng(1).integers(0, 255, (SIZE, 2 * SIZE, 3), dtype=np.uint8)
    points = np.array([[[11, 12], [21, 12], [16, 17], [12, 22], [20, 22]]], np.float32)
    both = np.concatenate([points, points + np.array([SIZE, 0], np.float32)])
    return Portrait(pixels, both, np.array([[8, 8, 24, 26], [40, 8, 56, 26]], np.float32))


def driving_expression(frames: int, seed: int = 0) -> DrivingExpression:
    """Features of chance, of a face that stays where it is and is not seen in the third frame."""
    features = torch.randn(frames, sum(EXPRESSION.dims), generator=torch.Generator().manual_seed(seed))
    present = torch.arange(frames) != 2
    return DrivingExpression(features, present, torch.tensor([[10.0, 10.0, 30.0, 30.0]]).repeat(frames, 1))


def random_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise at 16 kHz whose loudness rises and falls."""
    count = round(seconds * 16000)
    noise = np.random.default_rng(seed).normal(0, 0.1, count)
    return (noise * (1 + np.sin(np.arange(count) / 800))).astype(np.float32)


@pytest.fixture(scope="session")
def face_picture() -> np.ndarray:
    """(160, 160, 3) a person of the portrait world."""
    pytest.importorskip("mediapipe")
    from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
    from fantasytalking.portrait_world.motion.frame_state import FaceState
    from fantasytalking.portrait_world.people.identity import make_identity

    return PortraitRenderer(make_identity(3), 160).frame(FaceState())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are fastest on one thread, and equal on machines of any size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
