"""The conditions of the model, one entry each: what other code lists about a condition follows from its entry.

Axes (after the batch): F latent frames, H and W latent height and width, h and w their tokens, W* audio windows, L
audio tokens in a window, S speakers, P people, frames video frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Injection(Enum):
    """How a condition enters the transformer."""

    timestep = "timestep"
    """A vector, added to the timestep embedding."""
    cross_attention = "cross_attention"
    """Tokens that every video token attends to."""
    windowed_cross_attention = "windowed_cross_attention"
    """Tokens in windows over time: a video token attends to those of its latent frame."""
    channel_concat = "channel_concat"
    """Channels beside those of the noisy latents."""


ATTENDED = (Injection.cross_attention, Injection.windowed_cross_attention)
"""Injections with keys and values in every block."""


class TensorSpec(NamedTuple):
    """Shape and type of one tensor of `Conditions`."""

    axes: tuple[str, ...]
    """Sizes after the batch: a number, a size of the model, a letter that means one size wherever it stands, or *."""
    mask: str = ""
    """Meaning of True; empty: the tensor is floating-point, in the dtype of the latents."""
    per_branch: bool = False
    """Whether it may differ between guidance branches that share their latents."""


@dataclass(frozen=True)
class ConditionSpec:
    """One condition of the model."""

    name: str
    """Name of its cache entries, of its adapter module and, if attended to, of its keys and values."""
    injection: Injection
    tensors: Mapping[str, TensorSpec]
    """Its tensors in `flatten_conditions`."""
    module: str | None = None
    """Attribute of the transformer that projects it; None: the base's, so that an adapter does not contain it."""
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its keys in the feature file of a clip, with their axes."""
    dropout: str | None = None
    """Key of its probability in `DropoutConfig`; None: never dropped."""
    per_window: bool = False
    """Whether it changes from window to window of a video, so that nothing computed from it is kept between them."""

    @property
    def is_decoupled(self) -> bool:
        """Whether it has attention of its own, beside Wan's text and image attention."""
        return self.module is not None and self.injection in ATTENDED

    @property
    def parameter_patterns(self) -> tuple[str, ...]:
        """Shell patterns of the names of its parameters."""
        if self.module is None:
            return ()
        projections = (f"blocks.*.attn2.{self.name}_[kv]_proj.weight",) if self.is_decoupled else ()
        return (f"{self.module}.*", *projections)


CONDITIONS = (
    ConditionSpec(
        "text",
        Injection.cross_attention,
        {"prompt_embeds": TensorSpec(("*", "text_dim"), per_branch=True)},
        features={"text": ("T", "D_text")},
        dropout="prompt",
    ),
    ConditionSpec(
        "image",
        Injection.cross_attention,
        {"image_embeds": TensorSpec(("*", "image_dim"))},
        features={"image": ("I", "D_image")},
        dropout="reference",
    ),
    ConditionSpec(
        "first_frame",
        Injection.channel_concat,
        {"image_latents": TensorSpec(("image_channels", "image_frames", "H", "W"))},
        features={"first_frame_latents": ("Z", "F", "h", "w")},
        dropout="reference",
    ),
    ConditionSpec(
        "audio",
        Injection.windowed_cross_attention,
        {
            "audio_embeds": TensorSpec(("W*", "L", "audio_dim")),
            "audio_mask": TensorSpec(("W*", "L"), "True where a token is real"),
            "speaker_regions": TensorSpec(("S", "F", "h", "w"), "True where a video token attends to the speaker"),
        },
        module="audio_projector",
        features={"audio": ("A", "C"), "speakers": ("P", "A", "C")},
        dropout="audio",
        per_window=True,
    ),
    ConditionSpec(
        "face",
        Injection.cross_attention,
        {
            "face_embeds": TensorSpec(("*", "face_dim")),
            "condition_scale": TensorSpec(("2",), per_branch=True),  # of audio, too
        },
        module="face_resampler",
        features={"face": ("P", "512")},
        dropout="reference",
    ),
    ConditionSpec("motion", Injection.timestep, {"motion_intensity": TensorSpec(("2",))}, module="motion_embedder"),
    ConditionSpec(
        "expression",
        Injection.windowed_cross_attention,
        {
            "expression.features": TensorSpec(("P", "frames", "expression_dim")),
            "expression.present": TensorSpec(("P", "frames"), "True where a frame has features"),
            "expression.regions": TensorSpec(("P", "F", "h", "w"), "True where a video token attends to the person"),
            "expression.scale": TensorSpec((), per_branch=True),
        },
        module="expression_projector",
        features={
            "expression": ("P", "frames", "E"),
            "expression_present": ("P", "frames"),
            "boxes": ("P", "frames", "4"),
        },
        dropout="expression",
        per_window=True,
    ),
    ConditionSpec("guidance", Injection.timestep, {"guidance": TensorSpec(("2",))}, module="guidance_embedder"),
)
"""In the order in which they are checked, projected and added up."""
PER_BRANCH_TENSORS = tuple(name for spec in CONDITIONS for name, tensor in spec.tensors.items() if tensor.per_branch)
"""Tensors of `Conditions` that may differ between guidance branches which share their latents."""
PER_WINDOW_TENSORS = {
    name: spec.name
    for spec in CONDITIONS
    if spec.per_window
    for name, tensor in spec.tensors.items()
    if not tensor.per_branch
}
"""Condition by tensor that changes from window to window."""
