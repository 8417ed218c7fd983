"""Defines the configuration of data preparation (configs/*/data.yaml)."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from fantasytalking.common.config_aliases import restore_old_keys
from fantasytalking.common.dtype import Dtype
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.features import FEATURE_FORMAT
from fantasytalking.data.manifest import MAX_PEOPLE_PER_CLIP
from fantasytalking.data.prepare.clip_limits import EARLIER_LIMITS, LIMIT_RANGES, ClipLimits
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket

MIN_CLIP_SECONDS = 0.5


@dataclass
class PreparationConfig(ClipLimits):
    """Configuration of `prepare_data`. The last two groups and the limits do not change the features."""

    base: str = MISSING
    """Diffusers folder or hub id with vae, text_encoder, tokenizer and, for CLIP tokens, image_encoder and
    image_processor."""
    image_tokens: bool = True
    """Whether clips get CLIP tokens of their first frame, which Wan 2.1 attends to; Wan 2.2 has no CLIP."""
    audio_encoder: str | None = None
    """Folder or hub id of a wav2vec2, HuBERT, WavLM or Whisper model; None uses `base`/audio_encoder."""
    face_encoder: str | None = None
    """ArcFace .onnx file; None uses the only .onnx in `base`/face_encoder."""
    expression_encoder: str | None = None
    """Folder of an expression encoder, ours or the released one; None writes no expression features."""
    syncnet: str | None = None
    """SyncNet's weights, syncnet_v2.model (docs/evaluation.md); None measures lip sync without a network."""
    conditions: list[str] = field(default_factory=list)
    """Names of registered conditions whose values lie beside the videos (VIDEO.NAME.npy beside VIDEO.mp4)."""
    max_people: int = 1
    """Maximum number of people per clip, all of whom are encoded; 1 encodes the active speaker."""
    shift_audio: bool = False
    """Whether audio that is certainly early or late is moved to the mouth; otherwise such clips are rejected."""

    fps: float = 25.0
    """Frames per second of the clips; videos of other rates are resampled to the nearest frames, which their own rate
    avoids (docs/data.md)."""
    frames: int = 81
    """Number of frames per clip: 1 and a multiple of the VAE's temporal stride, as in 1 + 4k."""
    clip_stride: int = 81
    """Number of frames from the start of one clip to the start of the next within a scene."""
    buckets: list[str] = field(default_factory=lambda: ["512x512"])
    """Resolutions WIDTHxHEIGHT in pixels; a clip uses the one with the nearest aspect ratio."""
    resize_mode: ResizeMode = ResizeMode.crop
    """How frames are fitted into a bucket."""
    prompt: str = "A person is talking."
    """Caption of videos without a text file of the same name beside them."""
    time_ranges: str | None = None
    """JSON Lines file of videos, times and crops (data/manifests/hdtf.jsonl); None uses whole videos."""

    scene_cut_threshold: float = 0.35
    """Difference of the color histograms of adjacent frames above which a scene is cut, [0, 1]."""
    min_fps_ratio: float = 0.9
    """Minimum frame rate of a video as a fraction of `fps`."""

    motion_normalizer: str | None = None
    """motion_normaliser.json of another corpus; None fits a normalizer on this corpus."""

    dtype: Dtype = Dtype.float32
    """Data type of the text and image encoders: float32 or bfloat16. VAE and audio encoder always use float32."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu or cuda."""
    num_threads: int = 1
    """CPU threads per process. Another number may change the last bit of the features; more processes never do."""
    contact_sheet_clips: int = 24
    """Number of clips on contact_sheet.png; 0 writes none."""

    def validate(self) -> None:
        """Checks every value.

        Raises:
            InputError: a value is out of range.
        """
        parsed = self.parsed_buckets()
        limits: dict[str, tuple[float, float]] = {
            "fps": (1, 120),
            "frames": (5, 1201),
            "clip_stride": (1, 100_000),
            "max_people": (1, MAX_PEOPLE_PER_CLIP),
            "scene_cut_threshold": (0, 1),
            "min_fps_ratio": (0, 1),
            "num_threads": (1, 1024),
            "contact_sheet_clips": (0, 200),
        }
        for name, (low, high) in (limits | LIMIT_RANGES).items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"{name} is {value}; it must be {low:g} to {high:g}",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=value,
                )
        self._check_people()
        if self.resize_mode is ResizeMode.fit:
            raise InputError(
                "resize_mode is 'fit', which brings faces to what a trained model knows; use crop or letterbox",
                code=ErrorCode.invalid_choice,
                field="resize_mode",
                value=self.resize_mode,
            )
        for text, bucket in zip(self.buckets, parsed, strict=True):
            if any(not 16 <= size <= 4096 for size in bucket):
                raise InputError(
                    f"buckets contains {text}; width and height must be 16 to 4096",
                    code=ErrorCode.out_of_range,
                    field="buckets",
                    value=text,
                )
        if self.frames - 1 < MIN_CLIP_SECONDS * self.fps:
            raise InputError(
                f"frames is {self.frames}, which is {self.duration:.2f} s at {self.fps:g} fps; clips need at least "
                f"{MIN_CLIP_SECONDS} s, over which motion can be measured",
                code=ErrorCode.out_of_range,
                field="frames",
                value=self.frames,
            )
        if self.dtype is Dtype.float16:
            raise InputError(
                "dtype is float16; the encoders of data preparation work in float32 or bfloat16: use dtype=float32",
                code=ErrorCode.invalid_choice,
                field="dtype",
                value="float16",
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(
                f"device is '{self.device}'; use auto, cpu or cuda",
                code=ErrorCode.invalid_choice,
                field="device",
                value=self.device,
            )

    def check_geometry(self, geometry: LatentGeometry) -> None:
        """Checks that clips have whole latent frames and whole tokens.

        Raises:
            InputError: `frames` or a bucket is not a multiple of what the base encodes.
        """
        geometry.latent_frames(self.frames, "frames")
        for text, bucket in zip(self.buckets, self.parsed_buckets(), strict=True):
            geometry.check_size(bucket.height, bucket.width, "buckets", text)

    def _check_people(self) -> None:
        if self.max_people > 1 and self.expression_encoder is None:
            raise InputError(
                f"max_people is {self.max_people} and expression_encoder is not set, so that clips would have no face "
                "boxes; set expression_encoder to the folder of an encoder",
                code=ErrorCode.conflict,
                field="max_people",
                value=self.max_people,
            )
        for name in ("min_visible_fraction", "min_face_size"):
            if self.filter_people and getattr(self, name) == 0:
                raise InputError(
                    f"{name} is 0; with filter_people it must be above 0; increase it, or set filter_people=false",
                    code=ErrorCode.conflict,
                    field=name,
                    value=0,
                )

    @property
    def duration(self) -> float:
        """Length of a clip in seconds."""
        return self.frames / self.fps

    def parsed_buckets(self) -> list[ResolutionBucket]:
        """Returns the buckets as numbers.

        Raises:
            InputError: there is no bucket, or one is not WIDTHxHEIGHT.
        """
        found = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", text) for text in self.buckets]
        if not found or None in found:
            raise InputError(
                f"buckets is {list(self.buckets)}; give one or more sizes such as 512x512",
                code=ErrorCode.invalid_type,
                field="buckets",
                value=list(self.buckets),
            )
        return [ResolutionBucket(int(match[1]), int(match[2])) for match in found if match]

    def limits(self) -> dict[str, Any]:
        """Returns the limits by name."""
        return {name: getattr(self, name) for name in LIMIT_NAMES}

    def fingerprint(self) -> str:
        """Returns the hash of all settings that change the features of a clip or the times of clips.

        It is computed from the keys of earlier releases, so that a corpus that they began can be resumed.
        """
        return self._hash(asdict(self) | asdict(ClipLimits()))

    def fingerprint_with_limits(self) -> str:
        """Returns the hash as earlier releases computed it, for which limits changed the features."""
        return self._hash(asdict(self))

    def _hash(self, settings: dict[str, Any]) -> str:
        deciding = restore_old_keys(PreparationConfig, settings) | {
            "format": FEATURE_FORMAT,
            "fit": self.resize_mode.value,
            "precision": self.dtype.value,
        }
        for name in ("normaliser", "device", "threads", "contact_sheet_clips"):
            deciding.pop(name)
        # Corpora that were prepared before these settings existed, and without them, can be resumed.
        for name in LIMIT_NAMES:
            if name not in EARLIER_LIMITS:
                deciding.pop(name)
        if not self.shift_audio:
            deciding.pop("shift_audio")
        if self.syncnet is None:
            deciding.pop("syncnet")
        if self.image_tokens:
            deciding.pop("image_tokens")
        if self.expression_encoder is None:
            deciding.pop("expression_encoder")
        if not self.conditions:
            deciding.pop("conditions")
        if self.max_people == 1:
            deciding.pop("people")
        if self.max_people == 1 or not deciding["judge_people"]:
            for name in ("judge_people", "max_face_blur", "min_face_movement", "min_face_pixels"):
                deciding.pop(name)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


LIMIT_NAMES = tuple(item.name for item in fields(ClipLimits))
"""Settings that `fantasytalking prepare --refilter` can change."""
