"""Configuration of a stage's expression condition (FantasyPortrait, arXiv 2507.12956)."""

from dataclasses import dataclass, field
from enum import Enum

from fantasytalking.models.expression_config import LEARNED_TOKEN_COUNTS, ExpressionModuleConfig
from fantasytalking.models.expression_projector import match_parameter_count


class ExpressionAugmentation(Enum):
    """Parts of an expression that get learned tokens in addition to their plain token: the paper's ablation."""

    none = "none"
    emotion_and_mouth = "emotion_and_mouth"
    """The published model."""
    all = "all"


@dataclass
class ExpressionConditionConfig:
    """Expression modules that are added to a model without them; the defaults are the released sizes."""

    dims: list[int] = field(default_factory=lambda: [6, 6, 30, 512])
    """Feature dimensions of head, eyes, emotion and mouth, as of the encoder that prepared the corpus."""
    augmentation: ExpressionAugmentation = ExpressionAugmentation.emotion_and_mouth
    match_parameters_of: ExpressionAugmentation | None = None
    """Widens the plain projections to the parameter count of this augmentation; None: one linear layer each, as
    released."""
    token_dim: int = 2048
    width: int = 1280
    """Width of the resamplers that produce the learned tokens; depth, heads and head_dim are theirs too."""
    depth: int = 4
    heads: int = 20
    head_dim: int = 64
    positions: bool = False
    """Whether every position in a window has a learned vector; the released model has none."""
    save_float16: bool = False
    """Whether the adapter is saved in float16."""

    def validate(self) -> None:
        """Validates the sizes."""
        self.to_module_config()

    def to_module_config(self, temporal_stride: int = ExpressionModuleConfig.temporal_stride) -> ExpressionModuleConfig:
        """Returns the configuration of the model's modules.

        Args:
            temporal_stride: frames per latent frame of the base.

        Raises:
            InputError: a size is out of range, or the parameter count of `match_parameters_of` cannot be reached.
        """
        sizes = ExpressionModuleConfig.from_dict(
            {
                **{name: getattr(self, name) for name in ("dims", "token_dim", "width", "depth", "heads", "head_dim")},
                "learned": list(LEARNED_TOKEN_COUNTS[self.augmentation.value]),
                "plain_width": 0,
                "positions": int(self.positions),
                "temporal_stride": temporal_stride,
            },
            "stage",
        )
        if self.match_parameters_of in (None, self.augmentation):
            return sizes
        return match_parameter_count(sizes, self.match_parameters_of.value)
