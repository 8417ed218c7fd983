"""The recipe of nano (configs/nano/build.yaml): seeds, sizes and numbers of steps of everything that is trained."""

from dataclasses import dataclass, field
from itertools import pairwise

from omegaconf import MISSING

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.expression import ExpressionEncoderConfig
from fantasytalking.portrait_world.corpus.group_scene import MAX_GROUP_PEOPLE
from fantasytalking.portrait_world.render.camera import MAX_ZOOM
from fantasytalking.training.config import OptimizerType

MAX_PIPELINE_BYTES = 40_000_000
"""Of the pipeline."""
MAX_PORTRAIT_PARTS_BYTES = 8_000_000
"""Of what lets videos drive its faces."""


@dataclass
class ComponentTrainingConfig:
    """One optimisation: a warm-up, then a cosine down to a hundredth of the learning rate."""

    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    optimizer: OptimizerType = OptimizerType.adamw
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    save_interval: int = 200
    """Steps between the states from which a killed run goes on."""
    log_interval: int = 20

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        for name in ("steps", "batch_size", "save_interval", "log_interval"):
            if not 1 <= getattr(self, name) <= 10**7:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie from 1 to 10000000")
        for name, low, high in (
            ("learning_rate", 1e-9, 1),
            ("warmup_steps", 0, 10**6),
            ("weight_decay", 0, 1),
            ("max_grad_norm", 1e-6, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie from {low:g} to {high:g}")


@dataclass
class VideosConfig:
    """Talking people. Groups of people share a few sentences; every group has others."""

    num_identities: int = MISSING
    """Training people, from number 0 on."""
    group_size: int = MISSING
    """People who say the same sentences."""
    sentences_per_person: int = MISSING
    """Sentences that each of them says."""
    num_held_out: int = MISSING
    """Held-out people, who say one held-out sentence each: reconstruction is measured on them."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "num_identities", 1, 1000)
        _check_config_range(self, "group_size", 1, 1000)
        _check_config_range(self, "sentences_per_person", 1, 200)
        _check_config_range(self, "num_held_out", 1, 60)


@dataclass
class ExtendedVideosConfig:
    """Further people, each with words of their own: what the transformer needs more of than the autoencoder does."""

    first_identity: int = 100
    """Number of the first of them."""
    num_identities: int = 300
    """How many."""
    utterances_per_person: int = 2
    """That each of them says."""
    rest_interval: int = 5
    """One person in so many says one thing more and is silent afterwards, so that mouths learn to rest."""
    rest_seconds: float = 1.6

    @property
    def num_videos(self) -> int:
        """Of all of them together."""
        people = range(self.first_identity, self.first_identity + self.num_identities)
        return self.num_identities * self.utterances_per_person + sum(
            1 for number in people if number % self.rest_interval == 0
        )

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "first_identity", 0, 999)
        _check_config_range(self, "num_identities", 1, 1000 - self.first_identity)
        _check_config_range(self, "utterances_per_person", 1, 200)
        _check_config_range(self, "rest_interval", 1, 1000)
        _check_config_range(self, "rest_seconds", 0.1, 10)


SHORTCUT_FACTOR = 4
"""Positions of a level, at least, that a shortcut joins in one of the next."""


@dataclass
class VaeTraining:
    """The causal video VAE: a small AutoencoderKLWan."""

    base_dim: int = 24
    dim_mult: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Widths of the levels, in units of `base_dim`; time is halved at the last two of the halvings between them."""
    patch_size: int = 2
    """Side of the squares of pixels that enter as channels, as in Wan 2.2's VAE: the dearest level falls away."""
    num_res_blocks: int = 1
    latent_channels: int = 16
    """Of the latents; the preset's `wan.out_channels`, and `wan.in_channels` is twice that and 4."""
    residual_shortcuts: bool = False
    """Shortcuts round every level that average or repeat, as in Wan 2.2's VAE: a short training gets further."""
    clip_frames: int = 17
    """Of a training clip, 1 + 4k."""
    crop_size: int = 64
    """Side of the part of the picture that most steps see. It is where the mouth is in half of the clips."""
    full_frame_interval: int = 4
    """Every so many steps the whole picture is seen, of fewer clips, as the middle attention needs it."""
    long_clip_frames: int = 33
    long_crop_size: int = 48
    """Length and side of the clips of every so many other steps: features reach further back than `clip_frames`, and
    what comes later than that is seen in these alone."""
    mse_weight: float = 4.0
    """Of the squared error, which leads while the pictures are rough."""
    l1_weight: float = 0.2
    """Of the absolute error of pixels and of neighbouring pixels' differences, which lead once it is small, so that
    lips and lids keep their edges. Alone, it leads to grey first: 185 steps of AdamW give 18 dB, 21 with the square."""
    mouth_weight: float = 4.0
    """How much more the middle of the mouth counts than the backdrop."""
    kl_weight: float = 1e-5
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        for name in ("clip_frames", "long_clip_frames"):
            if getattr(self, name) < 5 or (getattr(self, name) - 1) % 4:
                raise InputError(f"vae.{name} is {getattr(self, name)}; it must be 1 + 4k, from 5 on")
        for name in ("crop_size", "long_crop_size"):
            if getattr(self, name) < 16 or getattr(self, name) % 16:
                raise InputError(f"vae.{name} is {getattr(self, name)}; it must be a multiple of 16")
        _check_config_range(self, "full_frame_interval", 2, 1000)
        if self.patch_size * 2 ** (len(self.dim_mult) - 1) != 8 or len(self.dim_mult) < 3:
            raise InputError(
                f"vae.patch_size {self.patch_size} and {len(self.dim_mult)} levels in vae.dim_mult do not make "
                "pictures 8 times smaller and time 4 times; use 2 and three levels, or 1 and four"
            )
        _check_config_range(self, "latent_channels", 4, 128)
        if self.residual_shortcuts and not self._has_shortcuts():
            raise InputError(
                f"vae.residual_shortcuts has no shortcuts for vae.dim_mult {self.dim_mult}: {SHORTCUT_FACTOR} times "
                "each width must be a multiple of the next, and the last but one of the last"
            )

    def _has_shortcuts(self) -> bool:
        """Whether averages and repetitions lead from each level's width to the next one's, down and up."""
        widths = [1, *self.dim_mult]
        reached = all(above * SHORTCUT_FACTOR % below == 0 for above, below in pairwise(widths))
        return reached and widths[-2] % widths[-1] == 0


@dataclass
class AudioEncoderTraining:
    """wav2vec2, trained to name the phoneme that sounds at every one of its tokens."""

    num_utterances: int = MISSING
    num_held_out_utterances: int = MISSING
    window_seconds: float = 3.0
    """Length of a training window."""
    num_layers: int = 4
    num_heads: int = 4
    feed_forward_dim: int = 512
    conv_channels: int = 64
    """Of the convolutions."""
    label_smoothing: float = 0.05
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "num_utterances", 1, 100_000)
        _check_config_range(self, "num_held_out_utterances", 1, 10_000)
        _check_config_range(self, "window_seconds", 0.5, 20)


@dataclass
class PortraitImagesConfig:
    """Single pictures of many people in many poses, for the face net and the text and image encoders."""

    num_identities: int = MISSING
    num_held_out: int = MISSING
    images_per_person: int = MISSING
    """Pictures of each."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "num_identities", 2, 1000)
        _check_config_range(self, "num_held_out", 2, 1000)
        _check_config_range(self, "images_per_person", 2, 1000)


@dataclass
class FaceEncoderTraining:
    """The face net: additive-margin softmax over the people of the stills (Wang et al., CosFace, CVPR 2018)."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    scale: float = 24.0
    margin: float = 0.3
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)


@dataclass
class TextImageEncoderTraining:
    """Text and image encoder, trained together to tell which caption goes with which portrait."""

    vocab_size: int = 512
    text_layers: int = 2
    text_heads: int = 4
    image_size: int = 64
    patch_size: int = 16
    image_layers: int = 4
    image_heads: int = 4
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "vocab_size", 260, 10_000)
        if self.image_size % self.patch_size:
            raise InputError(
                f"text_image_encoder.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )


@dataclass
class ExpressionEncoderTraining:
    """The expression encoder and the pictures it learns from; the reader that judges by expressions has as many."""

    num_identities: int = 160
    """Training people, from number 0 on."""
    num_held_out: int = 24
    images_per_person: int = 32
    """Pictures of each."""
    agreement_weight: float = 0.4
    """Weight of the agreement of two people who make the same face. It grows with the square of the steps to this:
    weighed in full from the beginning, features agree best by all telling the same."""
    network: ExpressionEncoderConfig = field(default_factory=ExpressionEncoderConfig)
    fit: ComponentTrainingConfig = field(
        default_factory=lambda: ComponentTrainingConfig(1500, 32, 0.01, OptimizerType.muon)
    )

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "num_identities", 4, 500)
        _check_config_range(self, "num_held_out", 4, 500)
        _check_config_range(self, "images_per_person", 4, 1000)
        _check_config_range(self, "agreement_weight", 0, 100)


@dataclass
class MultiPersonVideosConfig:
    """Pictures of several people who speak or listen, grouped as those of the other videos are."""

    people_per_video: int = 2
    """In a picture."""
    width: int = 160
    """Of the pictures in pixels; their height is `size`."""
    num_identities: int = 60
    """Training people, from number 0 on; each gathers others of the own group."""
    sentences_per_person: int = 3
    """Sentences that each of them says."""
    num_single_person_identities: int = 40
    """Training people, from number 0 on, whose videos by themselves are learned from too."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        _check_config_range(self, "people_per_video", 2, MAX_GROUP_PEOPLE)
        _check_config_range(self, "num_identities", 2, 1000)
        _check_config_range(self, "sentences_per_person", 1, 200)
        _check_config_range(self, "num_single_person_identities", 0, 1000)
        if self.width % 16 or not 32 <= self.width <= 1024:
            raise InputError(f"multi_person_videos.width is {self.width}; it must be a multiple of 16, from 32 to 1024")


@dataclass
class ScriptRunConfig:
    """A command of the project that is run: its YAML below configs/ and what differs from it here."""

    config: str = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class BuildConfig:
    """The whole chain."""

    work_dir: str = "outputs/nano"
    """Folder of everything on the way: videos, components, features, runs."""
    model: str = "nano"
    """Preset of the transformer's sizes, which also fixes the widths of the text, image and audio encoders."""
    seed: int = 0
    image_size: int = MISSING
    """Pixels of a side of everything that is drawn."""
    zoom: float = 1.0
    """How much larger than in the usual portrait people are seen: the mouth of a small picture needs its pixels."""
    prepared_size: int | None = None
    """Of the prepared clips; none: `image_size`."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    num_processes: int = 0
    """That draw, speak and prepare; 0: as many as there are cores, up to 16."""
    pretrained_components: str | None = None
    """A finished folder (checkpoints/nano) whose encoders and base are used, in place of training them."""
    max_text_tokens: int = 16
    """Tokens to which prompts are padded; must be what the stages' YAML says."""
    flow_shift: float = 2.0
    """Of the noise levels towards noise, in training and in the pipeline: less than Wan's 5, since the same noise hides
    less in large latents than in small ones; not measured on nano. Must be what the stages' YAML says."""
    videos: VideosConfig = field(default_factory=VideosConfig)
    portrait_images: PortraitImagesConfig = field(default_factory=PortraitImagesConfig)
    vae: VaeTraining = field(default_factory=VaeTraining)
    audio_encoder: AudioEncoderTraining = field(default_factory=AudioEncoderTraining)
    face_encoder: FaceEncoderTraining = field(default_factory=FaceEncoderTraining)
    text_image_encoder: TextImageEncoderTraining = field(default_factory=TextImageEncoderTraining)
    expression_encoder: ExpressionEncoderTraining = field(default_factory=ExpressionEncoderTraining)
    multi_person_videos: MultiPersonVideosConfig = field(default_factory=MultiPersonVideosConfig)
    extended_videos: ExtendedVideosConfig = field(default_factory=ExtendedVideosConfig)
    prepare: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/data.yaml"))
    base: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/base.yaml"))
    stage1: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/stage1.yaml"))
    stage2: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/stage2.yaml"))
    multi_person_prepare: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/data.yaml"))
    stage2_multi_person: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/stage2_people.yaml"))
    extended_prepare: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/data.yaml"))
    stage2_extended: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/stage2_more.yaml"))
    portrait_stage: ScriptRunConfig = field(default_factory=lambda: ScriptRunConfig("nano/people.yaml"))

    def validate(self) -> None:
        """Holds the values in their limits."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is '{self.device}'; use auto, cpu or cuda")
        _check_config_range(self, "num_processes", 0, 256)
        _check_config_range(self, "seed", 0, 2**31 - 1)
        _check_config_range(self, "max_text_tokens", 1, 512)
        _check_config_range(self, "flow_shift", 0.1, 20)
        _check_config_range(self, "zoom", 1, MAX_ZOOM)
        for value in (self.image_size, self.prepared_size or self.image_size):
            if value % 16 or not 32 <= value <= 512:
                raise InputError(f"image_size is {value}; it must be a multiple of 16, from 32 to 512")
        if max(self.vae.crop_size, self.vae.long_crop_size) > self.image_size:
            raise InputError(
                f"vae.crop_size is {self.vae.crop_size} and vae.long_crop_size {self.vae.long_crop_size}; the images "
                f"have {self.image_size} pixels per side"
            )


def _check_config_range(config: object, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; it must lie from {low:g} to {high:g}")
