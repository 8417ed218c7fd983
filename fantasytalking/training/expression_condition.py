"""The expression condition of a stage, as its YAML describes it (FantasyPortrait, arXiv 2507.12956)."""

from dataclasses import dataclass, field
from enum import Enum

from fantasytalking.models.expression_config import LEARNED_TOKEN_COUNTS, ExpressionModuleConfig
from fantasytalking.models.expression_projector import match_parameter_count


class ExpressionAugmentation(Enum):
    """Which parts of an expression become learned tokens beside their plain one: the paper's ablation."""

    none = "none"
    emotion_and_mouth = "emotion_and_mouth"
    """As published."""
    all = "all"


@dataclass
class ExpressionConditionConfig:
    """What a model that has no expression condition is given; the defaults are the released sizes."""

    dims: list[int] = field(default_factory=lambda: [6, 6, 30, 512])
    """Widths of head, eye, emotion and mouth: those of the encoder that prepared the corpus."""
    augmentation: ExpressionAugmentation = ExpressionAugmentation.emotion_and_mouth
    match_parameters_of: ExpressionAugmentation | None = None
    """Plain projections are widened until there are as many parameters as this augmentation has; none: one linear
    layer each, as released."""
    token_dim: int = 2048
    width: int = 1280
    """Of the resamplers that make the learned tokens, as are depth, heads and head_dim."""
    depth: int = 4
    heads: int = 20
    head_dim: int = 64
    positions: bool = False
    """Whether every place in a window has a learned vector, which the released model does not have."""
    save_float16: bool = False
    """Whether the adapter is written in float16."""

    def validate(self) -> None:
        """Holds the sizes in their limits."""
        self.to_module_config()

    def to_module_config(self) -> ExpressionModuleConfig:
        """What the model is built with.

        Raises:
            InputError: a size outside its limits, or no way to reach the parameters of `match_parameters_of`.
        """
        sizes = ExpressionModuleConfig.from_dict(
            {
                **{name: getattr(self, name) for name in ("dims", "token_dim", "width", "depth", "heads", "head_dim")},
                "learned": list(LEARNED_TOKEN_COUNTS[self.augmentation.value]),
                "plain_width": 0,
                "positions": int(self.positions),
            },
            "stage",
        )
        if self.match_parameters_of in (None, self.augmentation):
            return sizes
        return match_parameter_count(sizes, self.match_parameters_of.value)
