"""Configuration of the paper's modules: the one source of their default sizes."""

from dataclasses import dataclass
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.expression_config import ExpressionModuleConfig


@dataclass
class PortraitConfig:
    """Sizes of the paper's modules, under the names of FantasyTalkingTransformer3DModel's arguments."""

    audio_dim: int = 768
    """Width of the audio encoder's tokens (wav2vec2-base: 768)."""
    audio_token_dim: int = 2048
    """Width of an audio token."""
    audio_positions: int = 0
    """Tokens of a frame-level window with learned positions (17 in 0.34 s); 0 = no positions, as released."""
    audio_scale: float = 1.0
    """l1, weight of the audio attention (paper: 1)."""
    face_dim: int = 512
    """Width of an ArcFace embedding."""
    face_tokens: int = 16
    """Number of face tokens."""
    face_token_dim: int = 2048
    """Width of a face token."""
    face_width: int = 1024
    """Inner width of the Q-Former."""
    face_depth: int = 4
    """Layers of the Q-Former."""
    face_heads: int = 16
    """Attention heads of the Q-Former."""
    face_scale: float = 0.5
    """l2, weight of the face attention (paper: 0.5)."""
    motion_width: int = 256
    """Inner width of the motion embedder."""
    expression: dict[str, Any] | None = None
    """Section of an expression condition (`ExpressionModuleConfig`), of which only `dims` has no default; None = no
    expression condition."""

    def validate(self) -> None:
        """Validates that widths are divisible as the modules require, and the expression section.

        Raises:
            InputError: names the key, its value and the requirement.
        """
        if self.face_width % self.face_heads:
            raise InputError(
                f"portrait.face_width is {self.face_width}; it must be a multiple of face_heads, {self.face_heads}",
                code=ErrorCode.out_of_range,
                field="portrait.face_width",
                value=self.face_width,
            )
        if self.motion_width % 8:
            raise InputError(
                f"portrait.motion_width is {self.motion_width}; it must be a multiple of 8",
                code=ErrorCode.out_of_range,
                field="portrait.motion_width",
                value=self.motion_width,
            )
        if self.expression is not None:
            ExpressionModuleConfig.from_dict(self.expression, "portrait")
