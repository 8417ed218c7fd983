"""The encoded conditions of a whole video, and the model's conditions per window and guidance branch.

Axes: T text tokens, F latent frames of the video, L latent frames of a window, h and w latent height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.audio_windows import AudioWindows
from fantasytalking.conditions import Conditions, ExpressionCondition, RegisteredValue
from fantasytalking.models.cfg_branches import FULL_BRANCH, GuidanceBranch
from fantasytalking.pipeline.guidance import AvailableConditions
from fantasytalking.pipeline.sliding_window import LatentWindow


class WindowConditions(NamedTuple):
    """Conditions that change from window to window, on the model's device."""

    audio_windows: AudioWindows
    """(1, L, tokens, D) and mask."""
    expression: ExpressionCondition | None
    """Its scale is set per call."""
    speaker_regions: Tensor | None
    """(1, P, L, h, w) bool, the tokens that attend to each speaker's audio."""


class BranchInputs(NamedTuple):
    """Conditions that change from guidance branch to guidance branch, one sample per branch (B = branches).

    A `ConditionKVCache` recognizes tensors by identity: pass the same `BranchInputs` at every step.
    """

    prompt_embeds: Tensor
    """(B or 1, T, D); 1: all branches share the prompt."""
    condition_scale: Tensor
    """(B, 2) scales of audio and face."""
    expression_scale: Tensor
    """(B,)."""
    registered_scales: dict[str, Tensor]
    """(B,) by registered condition."""


@dataclass(frozen=True)
class VideoConditions:
    """Everything a video is denoised with, in the model's dtype on its device; audio, expression and regions on the
    CPU."""

    prompt_embeds: Tensor
    """(1, T, D) states of the prompt."""
    negative_prompt_embeds: Tensor
    """(1, T, D) states of the negative prompt; the same object as `prompt_embeds` where both prompts are equal."""
    image_embeds: Tensor | None
    """(1, I, D) CLIP tokens of the portrait; None for a base that does not attend to them."""
    image_latents: Tensor
    """As in `Conditions`, the same for every window of L latent frames: (1, s + Z, L, h, w) first-frame mask and
    latents, or (1, Z, 1, h, w) latents of the portrait."""
    audio_windows: AudioWindows
    """(1, F, tokens, D) and mask; in a stream (1, L, tokens, D) of the current window."""
    face_embeds: Tensor
    """(1, P, 512)."""
    motion_intensity: Tensor
    """(1, 2) of expression and body."""
    face_scale: float
    """Scale of the face attention: 0 drops the face, 1 as trained."""
    temporal_stride: int
    """Frames per latent frame; the first latent frame holds one frame."""
    has_audio: bool = True
    """False: nobody speaks, and `audio_windows` is masked throughout."""
    expression: tuple[Tensor, Tensor] | None = None
    """Driving features (1, P, 1 + stride (F - 1), D) and their presence; None: nothing drives the faces."""
    expression_scale: float = 1.0
    """Scale of the driving expressions, 1 as trained."""
    regions: Tensor | None = None
    """(P, 1, h, w) bool, the video tokens of each person; None: a single person has all tokens."""
    registered: Mapping[str, Tensor] = field(default_factory=dict)
    """Values (1, *axes) of registered conditions, by name."""
    registered_scales: Mapping[str, float] = field(default_factory=dict)
    """Scales of the registered conditions, 1 as trained."""

    @property
    def available(self) -> AvailableConditions:
        """Conditions that guidance can be computed for."""
        return AvailableConditions(
            self.prompt_embeds is not self.negative_prompt_embeds,
            self.has_audio,
            (*(() if self.expression is None else ("expression",)), *self.registered),
        )

    @property
    def full_branch(self) -> GuidanceBranch:
        """The branch with all conditions."""
        return FULL_BRANCH._replace(further=self.available.further)

    def branch_inputs(self, branches: tuple[GuidanceBranch, ...]) -> BranchInputs:
        """Returns the prompt and the scales of the branches of one call."""
        prompts = [self.prompt_embeds if branch.text else self.negative_prompt_embeds for branch in branches]
        is_shared = all(prompt is prompts[0] for prompt in prompts)
        return BranchInputs(
            prompts[0] if is_shared else torch.cat(prompts),
            self.motion_intensity.new_tensor([[float(branch.audio), self.face_scale] for branch in branches]),
            self.motion_intensity.new_tensor(
                [("expression" in branch.further) * self.expression_scale for branch in branches]
            ),
            {
                name: self.motion_intensity.new_tensor([(name in branch.further) * scale for branch in branches])
                for name, scale in self.registered_scales.items()
            },
        )

    def for_branches(
        self, branches: tuple[GuidanceBranch, ...], inputs: BranchInputs, window: WindowConditions
    ) -> Conditions:
        """Returns the conditions of one call: one sample per branch, shared conditions once.

        Args:
            inputs: `branch_inputs` of these branches.
        """
        registered = {
            name: RegisteredValue(value, inputs.registered_scales[name])
            for name, value in self.registered.items()
            if any(name in branch.further for branch in branches)
        }
        expression = window.expression if any("expression" in branch.further for branch in branches) else None
        return Conditions(
            prompt_embeds=inputs.prompt_embeds,
            image_embeds=self.image_embeds,
            image_latents=self.image_latents,
            audio_embeds=window.audio_windows.tokens,
            audio_mask=window.audio_windows.mask,
            face_embeds=self.face_embeds,
            motion_intensity=self.motion_intensity,
            condition_scale=inputs.condition_scale,
            expression=None if expression is None else expression._replace(scale=inputs.expression_scale),
            speaker_regions=window.speaker_regions,
            registered=registered or None,
        )

    def for_window(self, window: LatentWindow) -> WindowConditions:
        """Returns audio, driving expressions and regions of one window.

        Each latent frame keeps its own audio and its own group of driving frames. The first latent frame of the
        stretch also reads one token of the previous frame; here that is frame 0's, since the model sees a window as a
        clip.
        """
        device = self.motion_intensity.device
        tokens, mask = (tensor[:, window.frame_indices] for tensor in self.audio_windows)
        audio = AudioWindows(tokens.to(self.motion_intensity), mask.to(device))
        regions = self.regions
        if regions is not None:
            regions = regions.expand(-1, len(window.frame_indices), -1, -1)[None].to(device)
        speaker_regions = regions if self.has_audio and regions is not None and regions.shape[1] > 1 else None
        if self.expression is None:
            return WindowConditions(audio, None, speaker_regions)
        stride = self.temporal_stride
        groups = window.frame_indices[1:, None] * stride + torch.arange(1 - stride, 1)  # the frames of latent frame k
        frames = torch.cat([window.frame_indices[:1], groups.flatten()])
        features, present = (tensor[:, :, frames] for tensor in self.expression)
        expression = ExpressionCondition(
            features.to(self.motion_intensity), present.to(device), regions, self.motion_intensity.new_zeros(1)
        )
        return WindowConditions(audio, expression, speaker_regions)
