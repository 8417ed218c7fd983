"""The recipe of nano (configs/nano/build.yaml): seeds, sizes and numbers of steps of everything that is trained."""

from dataclasses import dataclass, field
from itertools import pairwise

from omegaconf import MISSING

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.expression import ExpressionEncoderConfig
from fantasytalking.portrait_world.corpus.group_scene import MOST_PEOPLE
from fantasytalking.portrait_world.render.camera import LARGEST_CLOSENESS
from fantasytalking.training.config import Optimiser

MAX_OUTPUT_BYTES = 40_000_000
"""Of the pipeline."""
MAX_PORTRAIT_BYTES = 8_000_000
"""Of what lets videos drive its faces."""


@dataclass
class FitConfig:
    """One optimisation: a warm-up, then a cosine down to a hundredth of the learning rate."""

    steps: int = MISSING
    batch: int = MISSING
    learning_rate: float = MISSING
    optimiser: Optimiser = Optimiser.adamw
    warm_up: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 200
    """Steps between the states from which a killed run goes on."""
    tell_every: int = 20

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        for name in ("steps", "batch", "save_every", "tell_every"):
            if not 1 <= getattr(self, name) <= 10**7:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie from 1 to 10000000")
        for name, low, high in (
            ("learning_rate", 1e-9, 1),
            ("warm_up", 0, 10**6),
            ("weight_decay", 0, 1),
            ("clip_norm", 1e-6, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie from {low:g} to {high:g}")


@dataclass
class VideosConfig:
    """Talking people. Groups of people share a few sentences; every group has others."""

    identities: int = MISSING
    """Training people, from number 0 on."""
    group: int = MISSING
    """People who say the same sentences."""
    sentences: int = MISSING
    """Sentences that each of them says."""
    held_out: int = MISSING
    """Held-out people, who say one held-out sentence each: reconstruction is measured on them."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "identities", 1, 1000)
        _between(self, "group", 1, 1000)
        _between(self, "sentences", 1, 200)
        _between(self, "held_out", 1, 60)


@dataclass
class MoreVideosConfig:
    """Further people, each with words of their own: what the transformer needs more of than the autoencoder does."""

    first: int = 100
    """Number of the first of them."""
    identities: int = 300
    """How many."""
    utterances: int = 2
    """That each of them says."""
    resting_every: int = 5
    """One person in so many says one thing more and is silent afterwards, so that mouths learn to rest."""
    rest_seconds: float = 1.6

    @property
    def videos(self) -> int:
        """Of all of them together."""
        people = range(self.first, self.first + self.identities)
        return self.identities * self.utterances + sum(1 for number in people if number % self.resting_every == 0)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "first", 0, 999)
        _between(self, "identities", 1, 1000 - self.first)
        _between(self, "utterances", 1, 200)
        _between(self, "resting_every", 1, 1000)
        _between(self, "rest_seconds", 0.1, 10)


SHORTCUT = 4
"""Positions of a level, at least, that a shortcut joins in one of the next."""


@dataclass
class VaeConfig:
    """The causal video VAE: a small AutoencoderKLWan."""

    base_dim: int = 24
    dim_mult: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Widths of the levels, in units of `base_dim`; time is halved at the last two of the halvings between them."""
    patch_size: int = 2
    """Side of the squares of pixels that enter as channels, as in Wan 2.2's VAE: the dearest level falls away."""
    num_res_blocks: int = 1
    channels: int = 16
    """Of the latents; the preset's `wan.out_channels`, and `wan.in_channels` is twice that and 4."""
    residual: bool = False
    """Shortcuts round every level that average or repeat, as in Wan 2.2's VAE: a short training gets further."""
    frames: int = 17
    """Of a training clip, 1 + 4k."""
    crop: int = 64
    """Side of the part of the picture that most steps see. It is where the mouth is in half of the clips."""
    whole_every: int = 4
    """Every so many steps the whole picture is seen, of fewer clips, as the middle attention needs it."""
    long_frames: int = 33
    long_crop: int = 48
    """Length and side of the clips of every so many other steps: features reach further back than `frames`, and what
    comes later than that is seen in these alone."""
    square_weight: float = 4.0
    """Of the squared error, which leads while the pictures are rough."""
    absolute_weight: float = 0.2
    """Of the absolute error of pixels and of neighbouring pixels' differences, which lead once it is small, so that
    lips and lids keep their edges. Alone, it leads to grey first: 185 steps of AdamW give 18 dB, 21 with the square."""
    mouth_weight: float = 4.0
    """How much more the middle of the mouth counts than the backdrop."""
    kl_weight: float = 1e-5
    fit: FitConfig = field(default_factory=FitConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        for name in ("frames", "long_frames"):
            if getattr(self, name) < 5 or (getattr(self, name) - 1) % 4:
                raise InputError(f"vae.{name} is {getattr(self, name)}; it must be 1 + 4k, from 5 on")
        for name in ("crop", "long_crop"):
            if getattr(self, name) < 16 or getattr(self, name) % 16:
                raise InputError(f"vae.{name} is {getattr(self, name)}; it must be a multiple of 16")
        _between(self, "whole_every", 2, 1000)
        if self.patch_size * 2 ** (len(self.dim_mult) - 1) != 8 or len(self.dim_mult) < 3:
            raise InputError(
                f"vae.patch_size {self.patch_size} and {len(self.dim_mult)} levels in vae.dim_mult do not make "
                "pictures 8 times smaller and time 4 times; use 2 and three levels, or 1 and four"
            )
        _between(self, "channels", 4, 128)
        if self.residual and not self._joined():
            raise InputError(
                f"vae.residual has no shortcuts for vae.dim_mult {self.dim_mult}: {SHORTCUT} times each width must be "
                "a multiple of the next, and the last but one of the last"
            )

    def _joined(self) -> bool:
        """Whether averages and repetitions lead from each level's width to the next one's, down and up."""
        widths = [1, *self.dim_mult]
        reached = all(above * SHORTCUT % below == 0 for above, below in pairwise(widths))
        return reached and widths[-2] % widths[-1] == 0


@dataclass
class AudioConfig:
    """wav2vec2, trained to name the phoneme that sounds at every one of its tokens."""

    utterances: int = MISSING
    held_out_utterances: int = MISSING
    seconds: float = 3.0
    """Length of a training window."""
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    channels: int = 64
    """Of the convolutions."""
    label_smoothing: float = 0.05
    fit: FitConfig = field(default_factory=FitConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "utterances", 1, 100_000)
        _between(self, "held_out_utterances", 1, 10_000)
        _between(self, "seconds", 0.5, 20)


@dataclass
class StillsConfig:
    """Single pictures of many people in many poses, for the face net and the text and image encoders."""

    identities: int = MISSING
    held_out: int = MISSING
    poses: int = MISSING
    """Pictures of each."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "identities", 2, 1000)
        _between(self, "held_out", 2, 1000)
        _between(self, "poses", 2, 1000)


@dataclass
class FaceConfig:
    """The face net: additive-margin softmax over the people of the stills (Wang et al., CosFace, CVPR 2018)."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    scale: float = 24.0
    margin: float = 0.3
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass
class LanguageConfig:
    """Text and image encoder, trained together to tell which caption goes with which portrait."""

    vocabulary: int = 512
    text_layers: int = 2
    text_heads: int = 4
    image_size: int = 64
    patch_size: int = 16
    image_layers: int = 4
    image_heads: int = 4
    fit: FitConfig = field(default_factory=FitConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "vocabulary", 260, 10_000)
        if self.image_size % self.patch_size:
            raise InputError(f"language.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")


@dataclass
class ExpressionConfig:
    """The expression encoder and the pictures it learns from; the reader that judges by expressions has as many."""

    people: int = 160
    """Training people, from number 0 on."""
    held_out: int = 24
    poses: int = 32
    """Pictures of each."""
    agreement: float = 0.4
    """Weight of the agreement of two people who make the same face. It grows with the square of the steps to this:
    weighed in full from the beginning, features agree best by all telling the same."""
    network: ExpressionEncoderConfig = field(default_factory=ExpressionEncoderConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(1500, 32, 0.01, Optimiser.muon))

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "people", 4, 500)
        _between(self, "held_out", 4, 500)
        _between(self, "poses", 4, 1000)
        _between(self, "agreement", 0, 100)


@dataclass
class PeopleVideosConfig:
    """Pictures of several people who speak or listen, grouped as those of the other videos are."""

    people: int = 2
    """In a picture."""
    width: int = 160
    """Of the pictures in pixels; their height is `size`."""
    identities: int = 60
    """Training people, from number 0 on; each gathers others of the own group."""
    sentences: int = 3
    """Sentences that each of them says."""
    alone: int = 40
    """Training people, from number 0 on, whose videos by themselves are learned from too."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _between(self, "people", 2, MOST_PEOPLE)
        _between(self, "identities", 2, 1000)
        _between(self, "sentences", 1, 200)
        _between(self, "alone", 0, 1000)
        if self.width % 16 or not 32 <= self.width <= 1024:
            raise InputError(f"people_videos.width is {self.width}; it must be a multiple of 16, from 32 to 1024")


@dataclass
class ScriptConfig:
    """A public script of the project: its YAML below configs/ and what differs from it here."""

    config: str = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class BuildConfig:
    """The whole chain."""

    work: str = "outputs/nano"
    """Folder of everything on the way: videos, components, features, runs."""
    model: str = "nano"
    """Preset of the transformer's sizes, which also fixes the widths of the text, image and audio encoders."""
    seed: int = 0
    size: int = MISSING
    """Pixels of a side of everything that is drawn."""
    closeness: float = 1.0
    """How much larger than in the usual portrait people are seen: the mouth of a small picture needs its pixels."""
    prepared_size: int | None = None
    """Of the prepared clips; none: `size`."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    processes: int = 0
    """That draw, speak and prepare; 0: as many as there are cores, up to 16."""
    components: str | None = None
    """A finished folder (checkpoints/nano) whose encoders and base are used, in place of training them."""
    text_length: int = 16
    """Tokens to which prompts are padded; must be what the stages' YAML says."""
    shift: float = 2.0
    """Of the noise levels towards noise, in training and in the pipeline: less than Wan's 5, since the same noise hides
    less in large latents than in small ones; not measured on nano. Must be what the stages' YAML says."""
    videos: VideosConfig = field(default_factory=VideosConfig)
    stills: StillsConfig = field(default_factory=StillsConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    face: FaceConfig = field(default_factory=FaceConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    expression: ExpressionConfig = field(default_factory=ExpressionConfig)
    people_videos: PeopleVideosConfig = field(default_factory=PeopleVideosConfig)
    more_videos: MoreVideosConfig = field(default_factory=MoreVideosConfig)
    prepare: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/data.yaml"))
    base: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/base.yaml"))
    stage1: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/stage1.yaml"))
    stage2: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/stage2.yaml"))
    people_prepare: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/data.yaml"))
    stage2_people: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/stage2_people.yaml"))
    more_prepare: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/data.yaml"))
    stage2_more: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/stage2_more.yaml"))
    people: ScriptConfig = field(default_factory=lambda: ScriptConfig("nano/people.yaml"))

    def validate(self) -> None:
        """Holds the values in their limits."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is '{self.device}'; use auto, cpu or cuda")
        _between(self, "processes", 0, 256)
        _between(self, "seed", 0, 2**31 - 1)
        _between(self, "text_length", 1, 512)
        _between(self, "shift", 0.1, 20)
        _between(self, "closeness", 1, LARGEST_CLOSENESS)
        for value in (self.size, self.prepared_size or self.size):
            if value % 16 or not 32 <= value <= 512:
                raise InputError(f"size is {value}; it must be a multiple of 16, from 32 to 512")
        if max(self.vae.crop, self.vae.long_crop) > self.size:
            raise InputError(
                f"vae.crop is {self.vae.crop} and vae.long_crop {self.vae.long_crop}; the pictures have {self.size} "
                "pixels a side"
            )


def _between(config: object, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; it must lie from {low:g} to {high:g}")
