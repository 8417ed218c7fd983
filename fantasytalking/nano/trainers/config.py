"""Configuration of the training of nano's components."""

from dataclasses import dataclass, field
from itertools import pairwise

from omegaconf import MISSING

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.validation import check_ranges
from fantasytalking.encoders.expression import ExpressionEncoderConfig
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.training.config import OptimizerType

ADDED_LATER = {"added_later": True}
"""Metadata of fields whose default is how builds worked before they existed: at their defaults they do not change the
fingerprint of a build step."""


@dataclass
class ComponentTrainingConfig:
    """Training of one component: a warmup, then a cosine schedule down to a hundredth of the learning rate."""

    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    optimizer: OptimizerType = OptimizerType.adamw
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    save_interval: int = 200
    """Steps between saved training states, from which an interrupted run resumes."""
    log_interval: int = 20
    """Steps between log lines."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = dict.fromkeys(("steps", "batch_size", "save_interval", "log_interval"), (1.0, 1e7))
        limits |= {"learning_rate": (1e-9, 1), "warmup_steps": (0, 1e6), "weight_decay": (0, 1)}
        check_ranges(self, limits | {"max_grad_norm": (1e-6, 1e6)}, "fit.")


NANO_GEOMETRY = WAN21_GEOMETRY
"""Geometry of nano's videos: the VAE has the strides of Wan 2.1, or those of Wan 2.2's with a transformer whose patches
are single latent cells, so that a token has the same size."""
SPATIAL_STRIDES = (8, 16)
SHORTCUT_FACTOR = 4
"""Smallest number of positions of a level that a shortcut merges into one position of the next."""


@dataclass
class VaeTraining:
    """Training of the causal video VAE, a small AutoencoderKLWan."""

    base_dim: int = 24
    dim_mult: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Widths of the levels, in units of `base_dim`. Time is halved at the last two of the spatial halvings."""
    patch_size: int = 2
    """Side of the pixel patches that are folded into channels, as in Wan 2.2's VAE, which saves the costliest level.
    With three levels, 2 gives latent cells of 8 pixels, and 4 cells of 16, which decode faster, for more channels."""
    num_res_blocks: int = 1
    latent_channels: int = 16
    """Latent channels; must equal the preset's `wan.out_channels`, with `wan.in_channels` = 2 * latent_channels + 4."""
    residual_shortcuts: bool = False
    """Parameter-free shortcuts around each level (averaging, repetition), as in Wan 2.2's VAE; they speed up training.
    """
    clip_frames: int = 17
    """Frames per training clip, 1 + 4k."""
    crop_size: int = 64
    """Side in pixels of the crops of most steps. In half of the clips the crop is centered near a weighted feature."""
    full_frame_interval: int = 4
    """Steps between batches of full frames, of fewer clips, which the attention of the middle block needs."""
    long_clip_frames: int = 33
    """Frames per clip, 1 + 4k, of one step in `full_frame_interval`: the receptive field reaches further back than
    `clip_frames`, so that later frames are trained in these steps alone."""
    long_crop_size: int = 48
    """Side in pixels of the crops of these steps."""
    mse_weight: float = 4.0
    """Weight of the squared error, which dominates early in training."""
    l1_weight: float = 0.2
    """Weight of the absolute error of pixels and of differences between neighboring pixels, which dominates late in
    training and keeps the edges of lips and lids. Alone it starts with gray images: after 185 steps of AdamW 18 dB, 21
    dB with the squared error."""
    mouth_weight: float = 4.0
    """Additional weight of the mouth's center, relative to the backdrop."""
    eye_weight: float = field(default=0.0, metadata=ADDED_LATER)
    """Additional weight of the centers of the eyes, lids and brows included. If positive, crops are also centered near
    the eyes."""
    motion_weight: float = field(default=0.0, metadata=ADDED_LATER)
    """Weight of the absolute error of differences between neighboring frames, relative to that of pixels: short motion
    such as blinks is lost first where four frames share a latent."""
    kl_weight: float = 1e-5
    extended_people: int = field(default=0, metadata=ADDED_LATER)
    """Number of people of the build's `extended_videos`, from the first on, whose videos are trained on as well."""
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Validates ranges and the VAE's compression: 8 or 16 times in space, 4 times in time.

        Raises:
            InputError: a value is out of range, or sizes do not fit together.
        """
        for name in ("clip_frames", "long_clip_frames"):
            value = getattr(self, name)
            if value <= NANO_GEOMETRY.temporal_stride or (value - 1) % NANO_GEOMETRY.temporal_stride:
                raise out_of_range(f"vae.{name}", value, "1 + 4k, at least 5")
        for name in ("crop_size", "long_crop_size"):
            value = getattr(self, name)
            if value < NANO_GEOMETRY.token_pixels or value % NANO_GEOMETRY.token_pixels:
                raise out_of_range(f"vae.{name}", value, f"a multiple of {NANO_GEOMETRY.token_pixels}")
        limits = {"full_frame_interval": (2, 1000), "latent_channels": (4, 128), "extended_people": (0, 1_000_000)}
        check_ranges(self, limits, "vae.")
        if self.spatial_stride not in SPATIAL_STRIDES or len(self.dim_mult) < 3:
            raise InputError(
                f"vae.patch_size {self.patch_size} and the {len(self.dim_mult)} levels of vae.dim_mult do not compress "
                "8 or 16 times in space and 4 times in time; use 2 or 4 with three levels, or 1 or 2 with four",
                code=ErrorCode.conflict,
                field="vae.patch_size",
                value=self.patch_size,
            )
        if self.residual_shortcuts and not self._has_shortcuts():
            raise InputError(
                f"vae.residual_shortcuts is not possible with vae.dim_mult {self.dim_mult}; {SHORTCUT_FACTOR} times "
                "each width must be a multiple of the next width, and the second to last a multiple of the last",
                code=ErrorCode.conflict,
                field="vae.dim_mult",
                value=list(self.dim_mult),
            )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, in height and in width."""
        return int(self.patch_size * 2 ** (len(self.dim_mult) - 1))

    def _has_shortcuts(self) -> bool:
        """Whether averaging and repetition can map each level's width to the next one's, down and up."""
        widths = [1, *self.dim_mult]
        reached = all(above * SHORTCUT_FACTOR % below == 0 for above, below in pairwise(widths))
        return reached and widths[-2] % widths[-1] == 0


@dataclass
class AudioEncoderTraining:
    """Training of the audio encoder, a wav2vec2 model that classifies the phoneme of each of its tokens."""

    num_utterances: int = MISSING
    """Number of synthesized training utterances."""
    num_held_out_utterances: int = MISSING
    """Number of synthesized utterances of held-out people, on which accuracy is measured."""
    window_seconds: float = 3.0
    """Length of a training window in seconds."""
    num_layers: int = 4
    num_heads: int = 4
    feed_forward_dim: int = 512
    conv_channels: int = 64
    """Channels of the convolutions."""
    label_smoothing: float = 0.05
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = {"num_utterances": (1, 100_000), "num_held_out_utterances": (1, 10_000), "window_seconds": (0.5, 20)}
        check_ranges(self, limits, "audio_encoder.")


@dataclass
class FaceEncoderTraining:
    """Training of the face encoder: additive-margin softmax over identities (Wang et al., CosFace, CVPR 2018)."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    """Channels of the four levels."""
    scale: float = 24.0
    """Factor on the cosines in the softmax."""
    margin: float = 0.3
    """Margin subtracted from the cosine of the true identity."""
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)


@dataclass
class TextImageEncoderTraining:
    """Training of the text and image encoders: contrastive matching of captions and portraits, as in CLIP."""

    vocab_size: int = 512
    text_layers: int = 2
    text_heads: int = 4
    image_size: int = 64
    patch_size: int = 16
    image_layers: int = 4
    image_heads: int = 4
    fit: ComponentTrainingConfig = field(default_factory=ComponentTrainingConfig)

    def validate(self) -> None:
        """Validates the vocabulary's size and the image's division into patches.

        Raises:
            InputError: a number lies outside its range, or `image_size` is not a multiple of `patch_size`.
        """
        check_ranges(self, {"vocab_size": (260, 10_000)}, "text_image_encoder.")
        if self.image_size % self.patch_size:
            raise InputError(
                f"text_image_encoder.image_size is {self.image_size}; it must be a multiple of "
                f"text_image_encoder.patch_size, which is {self.patch_size}",
                code=ErrorCode.conflict,
                field="text_image_encoder.image_size",
                value=self.image_size,
            )


@dataclass
class ExpressionEncoderTraining:
    """Training of the expression encoder and its images; the expression reader is fitted to equally many images."""

    num_identities: int = 160
    """Number of training identities, counted from identity 0."""
    num_held_out: int = 24
    """Number of held-out identities."""
    images_per_person: int = 32
    """Images per identity."""
    agreement_weight: float = 0.4
    """Final weight of the agreement loss between two people with the same expression. It grows quadratically over the
    steps, since at full weight from the start features agree by collapsing to a constant."""
    network: ExpressionEncoderConfig = field(default_factory=ExpressionEncoderConfig)
    fit: ComponentTrainingConfig = field(
        default_factory=lambda: ComponentTrainingConfig(1500, 32, 0.01, OptimizerType.muon)
    )

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = {"num_identities": (4, 500), "num_held_out": (4, 500), "images_per_person": (4, 1000)}
        check_ranges(self, limits | {"agreement_weight": (0, 100)}, "expression_encoder.")


def out_of_range(key: str, value: int, allowed: str) -> InputError:
    """Returns the error for a value that is not `allowed`, a phrase such as "a multiple of 16"."""
    return InputError(f"{key} is {value}; it must be {allowed}", code=ErrorCode.out_of_range, field=key, value=value)
