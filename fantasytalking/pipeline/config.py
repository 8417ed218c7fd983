"""The settings of inference (configs/*/infer.yaml)."""

from dataclasses import dataclass, field
from enum import Enum

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.common.dtype import Dtype
from fantasytalking.common.errors import InputError
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.pipeline.distillation_limits import MAX_NUM_INFERENCE_STEPS
from fantasytalking.pipeline.guidance import GuidanceConfig
from fantasytalking.pipeline.optimizations import OptimizationConfig
from fantasytalking.pipeline.portrait import parse_sizes
from fantasytalking.pipeline.schedulers import SchedulerType
from fantasytalking.pipeline.sliding_window import latent_window_sizes

MAX_PROMPT_CHARS = 4096
MAX_FACES = 100


class Offload(Enum):
    """What of the model waits in main memory while a GPU computes."""

    none = "none"
    """Nothing."""
    model = "model"
    """All parts but the one that works."""
    group = "group"
    """All blocks but the one that works: the least memory, and the slowest."""


@dataclass
class InferConfig:
    """One video: the model, and what it is told. Everything that decides what comes out."""

    # The model
    model: str = "nano"
    """Preset of the sizes: nano, wan1.3b or wan14b (configs/*/model.yaml)."""
    base: str | None = None
    """Folder or hub id of the Wan base, or a folder that `save_pretrained` wrote; none: the preset's."""
    adapter: str | None = None
    """Adapter folder; none where `base` is a saved pipeline, which has everything but what distillation adds."""
    audio_encoder: str | None = None
    """wav2vec2 folder or hub id; none: the one in the base."""
    face_encoder: str | None = None
    """ArcFace .onnx; none: the one in the base."""
    expression_adapter: str | None = None
    """Adapter folder of ours, or FantasyPortrait's released checkpoint, by which videos can drive the faces; none: that
    in expression_adapter of the base, or what adapter and base bring themselves. Read only where a driver is given."""
    expression_encoder: str | None = None
    """Folder of the encoder that reads drivers, ours or of the released files; none: expression_encoder in the folder
    of that adapter or the base."""
    scheduler: SchedulerType = SchedulerType.euler
    flow_shift: float = 5.0
    """Of the noise levels towards noise (released: 5). A saved pipeline brings its own sampler and shift."""
    max_text_tokens: int = 512
    """Tokens to which prompts are padded, as in training; Wan: 512."""
    dtype: Dtype = Dtype.float32
    """Of transformer, text and image encoder. VAE and wav2vec2 always work in float32."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    offload: Offload = Offload.none
    optimizations: OptimizationConfig = field(default_factory=OptimizationConfig)
    notice: str = ""
    """A line about this model, told before it works."""

    # The picture
    sizes: list[str] = field(default_factory=lambda: ["512x512"])
    """WIDTHxHEIGHT; the one of nearest aspect ratio is used."""
    resize_mode: ResizeMode = ResizeMode.crop
    min_face_fraction: float = 0.12
    """With crop, go nearer until the face has this share of the height; 0 = never."""
    face_index: int | None = None
    """Which of several faces, from 1 at the left."""
    face_indices: list[int] = field(default_factory=list)
    """Several of them, in the order of their sounds and drivers; none: as many as there are of these, from the left."""
    background: BackgroundAttention = BackgroundAttention.everyone
    """Of several people: to whose sounds and drivers what is nobody's face attends."""

    # What happens
    prompt: str = ""
    negative_prompt: str = ""
    expression_motion: float = 0.5
    body_motion: float = 0.5
    face_scale: float | None = None
    """Weight of the face attention, 1 = as trained; none: 1 where it was trained, else 0."""
    expression_scale: float = 1.0
    """Weight of the drivers, 1 = as trained."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    num_inference_steps: int | None = None
    """None: 30, or as many as a distilled adapter was made for."""
    seed: int = 0
    fps: float = 25.0
    max_seconds: float | None = None
    """At most so much of sounds and drivers; none: all of them."""
    window_frames: int = 81
    """Frames denoised at once: as many as the model was trained on."""
    overlap_frames: int = 24
    """Frames that neighbouring windows of a longer video share."""
    stream: bool = False
    """One window after another, each shown while the next is made, where they else are made together."""

    @property
    def selected_faces(self) -> int | list[int] | None:
        """`face_index` or `face_indices`, whichever is given."""
        return self.face_indices or self.face_index

    def validate(self) -> None:
        """Holds every value in its limits.

        Raises:
            InputError: naming the value, the limit and the cure.
        """
        parse_sizes(self.sizes)
        latent_window_sizes(self.window_frames, self.overlap_frames, 4)
        limits: dict[str, tuple[float, float]] = {
            "shift": (0.01, 100),
            "text_length": (1, 4096),
            "least_face": (0, 0.9),
            "expression_motion": (0, 1),
            "body_motion": (0, 1),
            "face_scale": (0, 10),
            "steps": (1, MAX_NUM_INFERENCE_STEPS),
            "seed": (0, 2**63 - 1),
            "fps": (1, 120),
            "seconds": (0.04, 14_400),
            "expression_scale": (0, 10),
            "face": (1, MAX_FACES),
            "window_frames": (9, 1201),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be {low:g} to {high:g}")
        for name in ("prompt", "negative_prompt"):
            if len(getattr(self, name)) > MAX_PROMPT_CHARS:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} characters; at most {MAX_PROMPT_CHARS} are read"
                )
        if self.face_index is not None and self.face_indices:
            raise InputError(f"face is {self.face_index} and faces {self.face_indices}; give one of the two")
        if any(not 1 <= number <= MAX_FACES for number in self.face_indices) or len(self.face_indices) > MAX_FACES:
            raise InputError(f"faces is {self.face_indices}; numbers from 1 to {MAX_FACES} are needed")
        ratios = self.optimizations.mag_ratios
        if ratios and len(ratios) != self.num_inference_steps:
            raise InputError(
                f"optimizations.mag_ratios has {len(ratios)} values; one a step is needed: set steps={len(ratios)}"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is '{self.device}'; use auto, cpu or cuda")
