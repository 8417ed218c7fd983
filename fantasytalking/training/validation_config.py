"""What a run shows of itself while it trains: who, what moves them, and how often."""

from dataclasses import dataclass, field

from fantasytalking.common.errors import InputError
from fantasytalking.training.limits import check_fraction, check_range


@dataclass
class HoldoutConfig:
    """The error on clips that are not trained on every so many steps; 0 = never. See held_out.jsonl of the run."""

    interval: int = 0
    manifests: list[str] = field(default_factory=list)
    """manifest.jsonl files of prepare_data, of other people than the run's."""
    max_clips: int = 32
    """At most so many of them, chosen by the seed."""

    def validate(self) -> None:
        """Clips are given when they are needed."""
        check_range("holdout.interval", self.interval, 0, 10**8)
        check_range("holdout.max_clips", self.max_clips, 1, 10**6)
        if self.interval and not self.manifests:
            raise InputError(f"holdout.interval is {self.interval} and holdout.manifests is empty; give prepared clips")


@dataclass
class ValidationConfig:
    """A video of a fixed portrait every so many steps, that talks, is driven or both; 0 = never."""

    interval: int = 0
    image: str | None = None
    """A picture."""
    audio: str | None = None
    """A sound; may be left out where something drives."""
    driving_videos: list[str] = field(default_factory=list)
    """Videos of a face, one for each of the portrait's first; of a stage that trains an expression condition."""
    expression_encoder: str | None = None
    """What reads them; none: that of the inference settings, or else the one beside stage.init_from or in the base."""
    max_seconds: float = 4.0
    """At most so much of the sound; of the drivers where there is none."""
    prompt: str = "A person is talking."
    motion: float = 0.5
    num_inference_steps: int = 30
    seed: int = 0
    infer_config: str | None = None
    """YAML of inference settings, for guidance and encoders; none: configs/<model>/infer.yaml."""

    def validate(self) -> None:
        """A portrait, and what moves it, are given when they are needed."""
        check_range("validation.interval", self.interval, 0, 10**8)
        check_range("validation.max_seconds", self.max_seconds, 0.2, 30)
        check_range("validation.seed", self.seed, 0, 2**63 - 1)
        check_fraction("validation.motion", self.motion)
        check_range("validation.num_inference_steps", self.num_inference_steps, 1, 1000)
        if self.interval and not self.image:
            raise InputError(f"validation.interval is {self.interval} and validation.image is not given; give a file")
        if self.interval and not self.audio and not self.driving_videos:
            raise InputError(
                f"validation.interval is {self.interval} and neither validation.audio nor validation.driving_videos is "
                "given; give "
                "a "
                "sound, or a video for each face"
            )
