"""Configuration of the nano build (configs/nano/build.yaml): seed, sizes and training steps of every component."""

from dataclasses import dataclass, field

import numpy as np
from omegaconf import MISSING

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.validation import check_ranges
from fantasytalking.nano.trainers.config import (
    ADDED_LATER,
    NANO_GEOMETRY,
    AudioEncoderTraining,
    ExpressionEncoderTraining,
    FaceEncoderTraining,
    TextImageEncoderTraining,
    VaeTraining,
    out_of_range,
)
from fantasytalking.portrait_world.corpus.group_scene import MAX_GROUP_PEOPLE
from fantasytalking.portrait_world.people.identity import FURTHER_TRAINING_IDENTITIES, TRAINING_IDENTITIES
from fantasytalking.portrait_world.render.camera import MAX_ZOOM, MIN_ZOOM, Camera
from fantasytalking.portrait_world.render.scene_layout import PersonPlacement

MAX_PIPELINE_BYTES = 40_000_000
"""Largest size of the finished pipeline."""
MAX_PORTRAIT_PARTS_BYTES = 8_000_000
"""Largest size of the expression encoder and the expression adapter together."""


@dataclass
class VideosConfig:
    """Videos of one speaker each. The people of a group say the same few sentences; each group has its own."""

    num_identities: int = MISSING
    """Number of training identities, counted from identity 0."""
    group_size: int = MISSING
    """People per group."""
    sentences_per_person: int = MISSING
    """Sentences that each person says."""
    num_held_out: int = MISSING
    """Held-out people, who say one held-out sentence each. Reconstruction quality is measured on them."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = {"num_identities": (1, 1000), "group_size": (1, 1000), "sentences_per_person": (1, 200)}
        check_ranges(self, limits | {"num_held_out": (1, 60)}, "videos.")


CHIN_Y, MAX_CHIN_FRACTION = -0.95, 0.95
"""Height of an average chin in head units, and its lowest position in a random framing, in image heights."""


@dataclass
class FramingConfig:
    """Range of the framings of videos, from which each video draws its own."""

    min_zoom: float = 0.8
    """Smallest magnification relative to the default portrait, in which the face has about 0.55 of the height."""
    max_zoom: float = 1.45
    """Largest magnification. Its logarithm is drawn uniformly."""
    max_x: float = 0.12
    """Largest distance of the head from the middle, to either side, in image heights; at small magnifications less, so
    that the ends of the shoulders are not visible."""
    max_y: float = 0.05
    """Largest distance of the head from its default position, up or down, in image heights; at large magnifications it
    is moved down less, so that the chin of a resting head is visible."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = {"min_zoom": (MIN_ZOOM, MAX_ZOOM), "max_zoom": (self.min_zoom, MAX_ZOOM)}
        check_ranges(self, limits | {"max_x": (0, 0.3), "max_y": (0, 0.1)}, "framing.")

    def draw(self, random: np.random.Generator) -> PersonPlacement:
        """Draws a framing, rounded as in truth.json."""
        zoom = float(np.exp(random.uniform(np.log(self.min_zoom), np.log(self.max_zoom))))
        limit = min(self.max_x, (zoom / MIN_ZOOM - 1) / 2)
        chin = Camera.portrait(1, 1, zoom).project(np.array([[0.0, CHIN_Y, 0.0]], np.float32))[0, 1]
        x = random.uniform(-limit, limit)
        y = random.uniform(-self.max_y, max(-self.max_y, min(self.max_y, MAX_CHIN_FRACTION - float(chin))))
        return PersonPlacement(round(x, 4), round(y, 4), round(zoom, 4))


@dataclass
class ExtendedVideosConfig:
    """Videos of further identities with unique utterances: more variety for the transformer than the VAE needs."""

    first_identity: int = 100
    """First identity, of 0 to 999 or of 1,000,000 to 1,999,999."""
    num_identities: int = 300
    """Number of identities."""
    utterances_per_person: int = 2
    """Utterances that each person says."""
    rest_interval: int = 5
    """Every such identity says one more utterance, followed by silence, so that the model learns a resting mouth."""
    rest_seconds: float = 1.6
    """Seconds of silence after that utterance."""
    min_words: int | None = field(default=None, metadata=ADDED_LATER)
    """With `max_words`: each utterance has that many words, drawn from all training sentences, often in two parts with
    a pause between them. None: sentences, and shuffled sentences."""
    max_words: int | None = field(default=None, metadata=ADDED_LATER)
    coupling: float = field(default=0.0, metadata=ADDED_LATER)
    """How far heads, shoulders and the light of the scene follow stress and phrases of the speech, in [0, 1]."""
    idle_seconds: float | None = field(default=None, metadata=ADDED_LATER)
    """Duration of videos in which nobody speaks and everybody moves: for a base that has never seen speech. None: the
    videos have utterances."""
    framing: FramingConfig | None = field(default=None, metadata=ADDED_LATER)
    """Framings of the videos. None: centered, at the build's `zoom`."""

    @property
    def num_videos(self) -> int:
        """Number of videos of all identities."""
        people = range(self.first_identity, self.first_identity + self.num_identities)
        return self.num_identities * self.utterances_per_person + sum(
            1 for number in people if number % self.rest_interval == 0
        )

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        known = FURTHER_TRAINING_IDENTITIES if self.first_identity >= len(TRAINING_IDENTITIES) else TRAINING_IDENTITIES
        limits: dict[str, tuple[float, float]] = {"first_identity": (known[0], known[-1])}
        limits |= {"num_identities": (1, known.stop - self.first_identity), "utterances_per_person": (1, 200)}
        limits |= {"rest_interval": (1, 1000), "rest_seconds": (0.1, 10), "coupling": (0, 1), "idle_seconds": (0.5, 60)}
        if self.min_words is not None:
            limits |= {"min_words": (1, 40), "max_words": (self.min_words, 40)}
        check_ranges(self, limits, "extended_videos.")
        if (self.min_words is None) != (self.max_words is None):
            raise InputError(
                "extended_videos has one of min_words and max_words; set both or none",
                code=ErrorCode.conflict,
                field="extended_videos.min_words",
                value=self.min_words,
            )


@dataclass
class PortraitImagesConfig:
    """Still images of many people and poses, on which the face encoder and the text and image encoders are trained."""

    num_identities: int = MISSING
    """Number of training identities, counted from identity 0."""
    num_held_out: int = MISSING
    """Number of held-out identities."""
    images_per_person: int = MISSING
    """Images per identity."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = dict.fromkeys(("num_identities", "num_held_out", "images_per_person"), (2, 1000))
        check_ranges(self, limits, "portrait_images.")


@dataclass
class MultiPersonVideosConfig:
    """Videos of several people who speak or listen, grouped in the same way as the videos of one speaker."""

    people_per_video: int = 2
    """People per video, 2 or 3."""
    width: int = 160
    """Width of the videos in pixels, a multiple of 16; their height is `image_size`."""
    num_identities: int = 60
    """Number of training identities, counted from identity 0. Each is joined by others of its group."""
    sentences_per_person: int = 3
    """Sentences that each person says."""
    num_single_person_identities: int = 40
    """Number of training identities, counted from identity 0, whose videos of one speaker are part of the corpus."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range, or the width is not a multiple of 16.
        """
        limits = {"people_per_video": (2, MAX_GROUP_PEOPLE), "num_identities": (2, 1000)}
        limits |= {"sentences_per_person": (1, 200), "num_single_person_identities": (0, 1000)}
        check_ranges(self, limits, "multi_person_videos.")
        if self.width % NANO_GEOMETRY.token_pixels or not 32 <= self.width <= 1024:
            raise out_of_range("multi_person_videos.width", self.width, "a multiple of 16, from 32 to 1024")


@dataclass
class ScriptRunConfig:
    """A command of the package that a step runs: train or prepare."""

    config: str = MISSING
    """Path of its YAML file, relative to configs/."""
    overrides: list[str] = field(default_factory=list)
    """key=value settings that replace those of the file."""


@dataclass
class BuildConfig:
    """Configuration of the whole build."""

    work_dir: str = "outputs/nano"
    """Folder of all intermediate results: videos, components, features, training runs."""
    model: str = "nano"
    """Preset of the transformer's sizes, which also fixes the widths of the text, image and audio encoders."""
    seed: int = 0
    image_size: int = MISSING
    """Side of all rendered images and height of all rendered videos in pixels, a multiple of 16."""
    zoom: float = 1.0
    """Magnification of people relative to the default portrait: it leaves more pixels to the mouth of a small image."""
    prepared_size: int | None = None
    """Side of the prepared clips in pixels, a multiple of 16. None: `image_size`."""
    device: str = "auto"
    """auto (a GPU if available), cpu or cuda."""
    num_processes: int = 0
    """Processes that render, synthesize speech and prepare clips. 0: one per core, at most 16."""
    pretrained_components: str | None = None
    """Folder of a finished pipeline, such as checkpoints/nano, whose encoders and base are used instead of trained
    ones."""
    max_text_tokens: int = 16
    """Tokens that prompts are padded to; must equal the value in the stages' YAML files."""
    flow_shift: float = 2.0
    """Shift of the noise levels toward noise, in training and in the pipeline; must equal the value in the stages' YAML
    files. Smaller than Wan's 5, since the same noise hides less in large latents than in small ones (not measured on
    nano)."""
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
        """Validates the device, ranges and image sizes.

        Raises:
            InputError: a value is out of range or not allowed, or the VAE's crops are larger than the images.
        """
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(
                f"device is '{self.device}'; use auto, cpu or cuda",
                code=ErrorCode.invalid_choice,
                field="device",
                value=self.device,
            )
        limits = {"num_processes": (0, 256), "seed": (0, 2**31 - 1), "max_text_tokens": (1, 512)}
        check_ranges(self, limits | {"flow_shift": (0.1, 20), "zoom": (1, MAX_ZOOM)})
        for name in ("image_size", "prepared_size"):
            value = getattr(self, name)
            if value is not None and (value % NANO_GEOMETRY.token_pixels or not 32 <= value <= 512):
                raise out_of_range(name, value, "a multiple of 16, from 32 to 512")
        if self.vae.extended_people > self.extended_videos.num_identities:
            raise InputError(
                f"vae.extended_people is {self.vae.extended_people}; it must be at most extended_videos."
                f"num_identities, which is {self.extended_videos.num_identities}",
                code=ErrorCode.conflict,
                field="vae.extended_people",
                value=self.vae.extended_people,
            )
        for name in ("crop_size", "long_crop_size"):
            value = getattr(self.vae, name)
            if value > self.image_size:
                raise InputError(
                    f"vae.{name} is {value}; it must be at most image_size, which is {self.image_size}",
                    code=ErrorCode.conflict,
                    field=f"vae.{name}",
                    value=value,
                )
