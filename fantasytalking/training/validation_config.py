"""What a run shows of itself while it trains: who, what moves them, and how often."""

from dataclasses import dataclass, field

from fantasytalking.common.errors import InputError
from fantasytalking.training.limits import between, share


@dataclass
class HeldOutConfig:
    """The error on clips that are not trained on every so many steps; 0 = never. See held_out.jsonl of the run."""

    every: int = 0
    manifests: list[str] = field(default_factory=list)
    """manifest.jsonl files of prepare_data, of other people than the run's."""
    clips: int = 32
    """At most so many of them, chosen by the seed."""

    def validate(self) -> None:
        """Clips are given when they are needed."""
        between("held_out.every", self.every, 0, 10**8)
        between("held_out.clips", self.clips, 1, 10**6)
        if self.every and not self.manifests:
            raise InputError(f"held_out.every is {self.every} and held_out.manifests is empty; give prepared clips")


@dataclass
class ValidationConfig:
    """A video of a fixed portrait every so many steps, that talks, is driven or both; 0 = never."""

    every: int = 0
    portrait: str | None = None
    """A picture."""
    audio: str | None = None
    """A sound; may be left out where something drives."""
    drive: list[str] = field(default_factory=list)
    """Videos of a face, one for each of the portrait's first; of a stage that trains an expression condition."""
    expression_encoder: str | None = None
    """What reads them; none: that of the inference settings, or else the one beside stage.init_from or in the base."""
    seconds: float = 4.0
    """At most so much of the sound; of the drivers where there is none."""
    prompt: str = "A person is talking."
    motion: float = 0.5
    steps: int = 30
    seed: int = 0
    infer: str | None = None
    """YAML of inference settings, for guidance and encoders; none: configs/<model>/infer.yaml."""

    def validate(self) -> None:
        """A portrait, and what moves it, are given when they are needed."""
        between("validation.every", self.every, 0, 10**8)
        between("validation.seconds", self.seconds, 0.2, 30)
        between("validation.seed", self.seed, 0, 2**63 - 1)
        share("validation.motion", self.motion)
        between("validation.steps", self.steps, 1, 1000)
        if self.every and not self.portrait:
            raise InputError(f"validation.every is {self.every} and validation.portrait is not given; give a file")
        if self.every and not self.audio and not self.drive:
            raise InputError(
                f"validation.every is {self.every} and neither validation.audio nor validation.drive is given; give a "
                "sound, or a video for each face"
            )
