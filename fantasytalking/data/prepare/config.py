"""The settings of data preparation (configs/*/data.yaml)."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field

from omegaconf import MISSING

from fantasytalking.common.config_aliases import restore_old_keys
from fantasytalking.common.dtype import Dtype
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.conditions import latent_frame_count
from fantasytalking.data.features import FEATURE_FORMAT
from fantasytalking.data.manifest import MAX_PEOPLE_PER_CLIP
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket

MIN_CLIP_SECONDS = 0.5


@dataclass
class PreparationConfig:
    """Settings of `prepare_data`. All but the last four groups decide what comes out."""

    base: str = MISSING
    """Diffusers folder or hub id with vae, text_encoder, tokenizer, image_encoder and image_processor."""
    audio_encoder: str | None = None
    """wav2vec2 folder or hub id; none: `base`/audio_encoder."""
    face_encoder: str | None = None
    """ArcFace .onnx; none: the only .onnx in `base`/face_encoder."""
    expression_encoder: str | None = None
    """Folder of an expression encoder, of ours or with the released files; none: what drives the faces is not told."""
    max_people: int = 1
    """Most people of a clip, all of whom it is about; 1: it is about the one who talks."""
    filter_people: bool = False
    """Leave out a clip of several people where one of them is blurred or holds still. Clips of one are not judged."""
    max_face_blur: float = 0.62
    """Blur of a face in the prepared picture, [0, 1]; as the next two, only with `filter_people`."""
    min_face_movement: float = 0.0001
    """Variance of brows, lids and lips beyond the landmarks' own trembling, in squared interocular distances."""
    min_face_pixels: int = 32
    """Height of a face in the prepared picture."""

    fps: float = 25.0
    """Frames a second of the clips; other rates are resampled to the nearest frames."""
    frames: int = 81
    """Frames of a clip, 1 + 4k."""
    clip_stride: int = 81
    """Frames from the start of one clip to the start of the next within a scene."""
    buckets: list[str] = field(default_factory=lambda: ["512x512"])
    """Sizes WIDTHxHEIGHT; a clip goes into the one of nearest aspect ratio."""
    resize_mode: ResizeMode = ResizeMode.crop
    prompt: str = "A person is talking."
    """Caption of videos that have no text file of the same name beside them."""
    time_ranges: str | None = None
    """A JSON Lines file of videos, times and crops (data/manifests/hdtf.jsonl); none: whole videos."""

    scene_cut_threshold: float = 0.35
    """Scene cut where neighbouring frames' colour histograms differ by more, [0, 1]."""
    min_fps_ratio: float = 0.9
    """Least frame rate of a video, as a part of `fps`."""
    max_upscale: float = 2.0
    """Most that a picture may be enlarged."""
    min_loudness_db: float = -50.0
    """The loudest twentieth of the sound must reach this, in decibels of full scale."""
    min_face_confidence: float = 0.85
    """Mean confidence of the face detector. The paper asks for 0.9 of a detector that it does not name; MediaPipe's,
    which is used here, gives good frontal faces 0.89 to 0.94."""
    min_visible_fraction: float = 0.95
    """Part of the frames that must show the face."""
    min_face_size: float = 0.1
    """Least height of the face, as a part of the prepared picture's."""

    motion_normalizer: str | None = None
    """motion_normaliser.json of another corpus; none: fitted on this one."""

    dtype: Dtype = Dtype.float32
    """Of the text and image encoders: float32 or bfloat16. VAE and wav2vec2 always work in float32."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    num_threads: int = 1
    """CPU threads of a process. Another number may change the last bit of the features, more processes never do."""
    contact_sheet_clips: int = 24
    """Clips on contact_sheet.png; 0: none is made."""

    def validate(self) -> None:
        """Checks every value.

        Raises:
            InputError: a value outside its limits.
        """
        latent_frame_count(self.frames)
        parsed = self.parsed_buckets()
        limits: dict[str, tuple[float, float]] = {
            "fps": (1, 120),
            "frames": (5, 1201),
            "clip_stride": (1, 100_000),
            "max_people": (1, MAX_PEOPLE_PER_CLIP),
            "max_face_blur": (0.01, 1),
            "min_face_movement": (0, 0.99),
            "min_face_pixels": (8, 4096),
            "scene_cut_threshold": (0, 1),
            "min_fps_ratio": (0, 1),
            "max_upscale": (0.1, 100),
            "min_loudness_db": (-200, 0),
            "min_face_confidence": (0, 1),
            "min_visible_fraction": (0, 1),
            "min_face_size": (0, 1),
            "num_threads": (1, 1024),
            "contact_sheet_clips": (0, 200),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie from {low:g} to {high:g}")
        self._check_people()
        for text, bucket in zip(self.buckets, parsed, strict=True):
            if any(size % 16 or not 16 <= size <= 4096 for size in bucket):
                raise InputError(f"bucket {text}: width and height must be multiples of 16, from 16 to 4096")
        if self.frames - 1 < MIN_CLIP_SECONDS * self.fps:
            raise InputError(
                f"frames is {self.frames}, {self.duration:.2f} s at {self.fps:g} frames a second; motion can be "
                f"measured from {MIN_CLIP_SECONDS} s on"
            )
        if self.dtype is Dtype.float16:
            raise InputError(
                "dtype is float16; the encoders of data preparation work in float32 or bfloat16: use dtype=float32",
                code=ErrorCode.invalid_choice,
                field="dtype",
                value="float16",
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is '{self.device}'; use auto, cpu or cuda")

    def _check_people(self) -> None:
        if self.max_people > 1 and self.expression_encoder is None:
            raise InputError(
                f"people is {self.max_people} and expression_encoder is not set, without which nobody's place is told; "
                "give the folder of an encoder"
            )
        for name in ("min_visible_fraction", "min_face_size"):
            if self.filter_people and getattr(self, name) == 0:
                raise InputError(f"{name} is 0 and judge_people is on; give more than 0, or judge_people=false")

    @property
    def duration(self) -> float:
        """Seconds of a clip."""
        return self.frames / self.fps

    def parsed_buckets(self) -> list[ResolutionBucket]:
        """The buckets as numbers.

        Raises:
            InputError: there is none, or one is not WIDTHxHEIGHT.
        """
        found = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", text) for text in self.buckets]
        if not found or None in found:
            raise InputError(f"buckets is {list(self.buckets)}; give sizes such as 512x512")
        return [ResolutionBucket(int(match[1]), int(match[2])) for match in found if match]

    def fingerprint(self) -> str:
        """Hash of everything that decides what a clip's features are."""
        deciding = restore_old_keys(PreparationConfig, asdict(self)) | {
            "format": FEATURE_FORMAT,
            "fit": self.resize_mode.value,
            "precision": self.dtype.value,
        }
        for name in ("normaliser", "device", "threads", "contact_sheet_clips"):
            deciding.pop(name)
        # Corpora that were made before there were such settings, and without them, can be gone on with.
        if self.expression_encoder is None:
            deciding.pop("expression_encoder")
        if self.max_people == 1:
            deciding.pop("people")
        if self.max_people == 1 or not self.filter_people:
            for name in ("judge_people", "max_face_blur", "min_face_movement", "min_face_pixels"):
                deciding.pop(name)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
