"""One guided step on the released code's reference weights equals the combination of its own predictions."""

import inspect
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from fantasytalking.audio_windows import released_frame_windows
from fantasytalking.checkpoints.convert import reference_inputs, reference_metadata, reference_model
from fantasytalking.common.tensor_io import open_safetensors
from fantasytalking.models.experts import Experts
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline.denoising import Denoiser
from fantasytalking.pipeline.guidance import CfgOrder, GuidanceConfig, GuidanceSchedule, guidance_at_step
from fantasytalking.pipeline.sliding_window import plan_windows
from fantasytalking.pipeline.video_conditions import VideoConditions


@pytest.fixture(scope="module")
def reference(golden: Path):
    path = golden / "official_forward_frame.safetensors"
    stored, metadata = open_safetensors(path), reference_metadata(path)
    return reference_model(stored, metadata, str(path)), reference_inputs(stored, str(path)), stored, metadata


@pytest.fixture(scope="module")
def unconditional(reference) -> torch.Tensor:
    """e(none, none) by diffusers' own transformer with the base's weights."""
    model, inputs, _, _ = reference
    names = inspect.signature(WanTransformer3DModel.__init__).parameters
    base = WanTransformer3DModel(**{name: value for name, value in model.config.items() if name in names}).eval()
    base.load_state_dict({name: value for name, value in model.state_dict().items() if adapter_module_of(name) is None})
    joined = torch.cat([inputs["latents"], inputs["image_condition"]], dim=1)
    with torch.no_grad():
        return base(joined, inputs["timestep"], torch.zeros_like(inputs["text_embeds"]), inputs["image_embeds"]).sample


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("text", "audio"), [(5.0, 5.0), (4.0, 6.0)])
def test_a_guided_step_equals_the_reference_combination(reference, unconditional, batched, text, audio):
    model, inputs, stored, metadata = reference
    frames = inputs["latents"].shape[2]
    conditions = VideoConditions(
        prompt_embeds=inputs["text_embeds"],
        negative_prompt_embeds=torch.zeros_like(inputs["text_embeds"]),
        image_embeds=inputs["image_embeds"],
        image_latents=inputs["image_condition"],
        audio_windows=released_frame_windows(inputs["audio_features"], metadata["num_frames"], 4),
        face_embeds=torch.zeros(1, 1, model.config.face_dim),
        motion_intensity=torch.full((1, 2), 0.5),
        face_scale=0.0,
        temporal_stride=4,
    )
    windows = plan_windows(frames, 21, 4)
    denoiser = Denoiser(Experts(model), conditions, windows, batch_branches=batched, on_window_done=lambda: None)
    guidance = GuidanceConfig(GuidanceSchedule(text, text), GuidanceSchedule(audio, audio), CfgOrder.text_first)
    with torch.no_grad():
        guided = denoiser.predict(inputs["latents"], inputs["timestep"][0], guidance_at_step(guidance, 0, 30))
    heard, silent = stored.read("out.prediction"), stored.read("out.prediction_without_audio")
    expected = unconditional + text * (silent - unconditional) + audio * (heard - silent)
    assert (guided - expected).abs().max() < 1e-4
    assert (guided - heard).abs().max() > 1e-2, "guidance must do something here"
