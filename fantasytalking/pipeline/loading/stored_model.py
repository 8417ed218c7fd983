"""Reads once what the files of a model say about it: trained modules, audio windows, distillation, encoders."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fantasytalking.checkpoints.adapter import AdapterConfig
from fantasytalking.checkpoints.adapter_formats import describe_adapter
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.text_files import read_json
from fantasytalking.condition_registry import resolve_conditions
from fantasytalking.encoders.base_geometry import read_geometry, read_transformer_config
from fantasytalking.encoders.encoder_folders import find_expression_encoder, find_face_encoder
from fantasytalking.encoders.single_files.vae import read_vae_channels
from fantasytalking.face_range import FaceRange, face_ranges_from_dict
from fantasytalking.models.experts import Expert, check_boundary_ratio
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.wan_loading import read_base_config
from fantasytalking.pipeline.model_facts import ModelFacts

PIPELINE_CLASS_NAME = "FantasyTalkingPipeline"
"""`_class_name` in the model_index.json of a saved pipeline."""
PIPELINE_CONFIG_TYPES = {"trained_modules": str, "audio_window": str, "window_seconds": float, "text_length": int}
"""Entries of model_index.json that describe a saved pipeline, besides its components."""


FILES_BOUNDARY_RATIO = 0.9
"""Boundary of Wan2.2-I2V-A14B, whose single files do not state it (wan/configs/wan_i2v_A14B.py of its code)."""


@dataclass(frozen=True)
class StoredModel:
    """Paths of a model's weights, and the descriptions found beside them."""

    base: Path
    """A saved pipeline, or a Wan base (a folder or a hub id)."""
    pipeline_config: Mapping[str, Any] | None
    """model_index.json of a saved pipeline; None: the base is not one."""
    adapter: Path | None
    adapter_config: AdapterConfig | None
    expression_adapter: Path | None
    expression_adapter_config: AdapterConfig | None
    """None: there is no expression adapter."""
    distillation: DistillationSpec | None
    face_encoder: Path | None
    expression_encoder: Path | None
    adapter_2: Path | None = None
    """Adapter of the low-noise expert, for a base that has two; `adapter` is that of the high-noise one."""
    adapter_2_config: AdapterConfig | None = None
    boundary_ratio: float | None = None
    """Noise level from which on the high-noise expert predicts; None: the base has one transformer."""
    components: Mapping[str, Path] = field(default_factory=dict)
    """Single files in place of components of a Wan base, by component."""

    @classmethod
    def read(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        *,
        adapter_2: str | Path | None = None,
        expression_adapter: str | Path | None = None,
        face_encoder: str | Path | None = None,
        expression_encoder: Path | None = None,
        components: Mapping[str, Path] = MappingProxyType({}),
    ) -> "StoredModel":
        """Reads every description once.

        Args:
            base: a saved pipeline, or a Wan base (a folder, or a transformer's file if `components` has the rest).
            adapter: adapter folder, or a released file; None: `base` is complete.
            adapter_2: adapter folder of the low-noise expert of a base with two.
            expression_adapter: adapter folder or released checkpoint that adds the expression condition.
            face_encoder: ArcFace .onnx; None: the one in `base`, where there is one.
            expression_encoder: folder; None: the first found beside expression adapter, adapter and base.
            components: single files in place of components of a Wan base.

        Raises:
            InputError: a description is missing or malformed, adapter and base do not fit together, or `base` holds
                several face encoders.
        """
        base = Path(base)
        adapter, adapter_2, expression_adapter = (
            None if path is None else Path(path) for path in (adapter, adapter_2, expression_adapter)
        )
        pipeline_config = read_pipeline_config(base)
        adapter_config = None if adapter is None else describe_adapter(adapter)
        if adapter_config is not None and pipeline_config is not None and adapter_config.modules == ["expression"]:
            # An adapter of the expression module alone extends a saved pipeline and is read where something drives.
            expression_adapter, adapter, adapter_config = expression_adapter or adapter, None, None
        stored = cls(
            base,
            pipeline_config,
            adapter,
            adapter_config,
            expression_adapter,
            None if expression_adapter is None else describe_adapter(expression_adapter),
            _read_distillation(base, adapter, adapter_config),
            find_face_encoder(base) if face_encoder is None else existing_file(face_encoder, "face encoder"),
            expression_encoder or find_expression_encoder(expression_adapter, adapter, base),
            adapter_2,
            None if adapter_2 is None else describe_adapter(adapter_2),
            FILES_BOUNDARY_RATIO if Expert.low.component in components else read_boundary_ratio(base),
            components,
        )
        stored._check_base()
        stored._check_experts()
        return stored

    def with_expression_adapter(
        self, expression_adapter: Path | None, expression_encoder: Path | None = None
    ) -> "StoredModel":
        """Returns the model with another expression adapter, or without one.

        Args:
            expression_encoder: folder; None: the first found beside expression adapter, adapter and base.

        Raises:
            InputError: the adapter's description is missing or malformed.
        """
        return replace(
            self,
            expression_adapter=expression_adapter,
            expression_adapter_config=None if expression_adapter is None else describe_adapter(expression_adapter),
            expression_encoder=expression_encoder
            or find_expression_encoder(expression_adapter, self.adapter, self.base),
        )

    @property
    def extends_saved_pipeline(self) -> bool:
        """Whether the model is a saved pipeline, with or without an adapter, rather than a Wan base with an adapter."""
        config = self.adapter_config
        return config is None or config.on_saved or config.modules == ["guidance"]

    @property
    def trained_modules(self) -> tuple[str, ...]:
        """Trained modules (audio, face, motion, expression, registered ones) of pipeline and adapters together."""
        saved = str((self.pipeline_config or {}).get("trained_modules", "")) if self.extends_saved_pipeline else ""
        added = [] if self.adapter_config is None else self.adapter_config.modules
        expression = [] if self.expression_adapter is None else ["expression"]
        names = dict.fromkeys([*saved.split(","), *added, *expression])
        return tuple(name for name in names if name and name != "guidance")

    @property
    def expression_adapter_affects_speech(self) -> bool:
        """Whether the expression adapter changes videos without driving videos: it has further modules, such as one
        that separates several speakers."""
        config = self.expression_adapter_config
        return config is not None and config.modules != ["expression"]

    @property
    def expression_adapter_affects_base(self) -> bool:
        """Whether the expression adapter changes the base: it has a LoRA or weights of the base."""
        config = self.expression_adapter_config
        return config is not None and (config.lora is not None or config.base_tensors > 0)

    @property
    def has_image_encoder(self) -> bool:
        """Whether the base attends to CLIP tokens of the portrait, as Wan 2.1 does."""
        return self.transformer_config["image_dim"] is not None

    @property
    def transformer_config(self) -> Mapping[str, Any]:
        """Configuration of the base's transformer, inferred where it is a file."""
        file = self.components.get("transformer")
        return read_transformer_config(self.base) if file is None else read_base_config(file)

    @property
    def audio_window(self) -> tuple[str, float]:
        """Rule and length in seconds of the audio windows, as in `AdapterConfig`."""
        if self.extends_saved_pipeline:
            assert self.pipeline_config is not None, "reading the model has checked it"
            return self.pipeline_config["audio_window"], self.pipeline_config["window_seconds"]
        assert self.adapter_config is not None
        return self.adapter_config.audio_window, self.adapter_config.window_seconds

    @property
    def face_ranges(self) -> dict[int, FaceRange]:
        """Sizes and places of faces that the model was trained on, by number of people. Where several were trained,
        the expression adapter precedes the adapter, and that the base."""
        described = [
            (self.base / "model_index.json", (self.pipeline_config or {}).get("face_ranges")),
            *((path, None if config is None else config.face_ranges) for path, config in self.adapters),
        ]
        ranges: dict[int, FaceRange] = {}
        for path, entry in described:
            ranges |= face_ranges_from_dict(entry, str(path))
        return ranges

    @property
    def conditions(self) -> dict[str, Mapping[str, int]]:
        """Sizes of the registered conditions of base and adapters, by name."""
        path = self.base / "transformer" / "config.json"
        found: dict[str, Mapping[str, int]] = {}
        if self.extends_saved_pipeline and path.is_file():
            found |= resolve_conditions(read_json(path).get("conditions"), str(path))
        for folder, config in self.adapters:
            found |= {} if config is None else resolve_conditions(config.conditions, str(folder))
        return found

    @property
    def adapters(self) -> list[tuple[Path | None, AdapterConfig | None]]:
        """All adapters with their descriptions; None where there is none."""
        return [
            (self.adapter_2, self.adapter_2_config),
            (self.adapter, self.adapter_config),
            (self.expression_adapter, self.expression_adapter_config),
        ]

    def adapter_of(self, expert: Expert) -> Path | None:
        """Returns the adapter of an expert; without experts, the adapter is that of the high-noise one."""
        return self.adapter if expert is Expert.high else self.adapter_2

    @property
    def experts(self) -> list[Expert]:
        """The transformers that the model has."""
        return [Expert.high] if self.boundary_ratio is None else list(Expert)

    def facts(self) -> ModelFacts:
        """Returns the facts that a request is checked against; reads the VAE's configuration.

        Raises:
            InputError: the base has no VAE configuration.
        """
        return ModelFacts(
            self.trained_modules,
            self.distillation,
            read_geometry(self.base, self.transformer_config, vae_channels=self._vae_channels()),
            self.face_encoder is not None,
            self.expression_encoder is not None,
            self.face_ranges,
            self.boundary_ratio is not None,
            self.conditions,
        )

    def _vae_channels(self) -> int | None:
        file = self.components.get("vae")
        return None if file is None else read_vae_channels(file)

    def _check_experts(self) -> None:
        """Each expert needs its own adapter: their weights and noise levels differ."""
        has_experts = self.boundary_ratio is not None
        given = {"adapter": self.adapter_config, "adapter_2": self.adapter_2_config}
        for name, expert in (("adapter", Expert.high), ("adapter_2", Expert.low)):
            config = given[name]
            wanted = expert.value if has_experts else None
            if config is None or (config.expert == wanted and (has_experts or name == "adapter")):
                continue
            trained = "a base with one transformer" if config.expert is None else f"the {config.expert}-noise expert"
            needed = f"the {wanted}-noise expert of '{self.base}'" if has_experts else f"'{self.base}', which has one"
            raise InputError(
                f"{name} '{getattr(self, name)}' was trained on {trained}, but is given for {needed}; give the adapter "
                "that was trained for it",
                code=ErrorCode.conflict,
                field=name,
                value=config.expert,
            )
        absent = [name for name, config in given.items() if config is None]
        if has_experts and len(absent) == 1:
            raise InputError(
                f"'{self.base}' has two experts, and {absent[0]} is missing; give adapter=FOLDER of the high-noise and "
                "adapter_2=FOLDER of the low-noise expert",
                code=ErrorCode.missing_value,
                field=absent[0],
            )
        if has_experts and self.expression_adapter is not None:
            raise InputError(
                f"expression_adapter '{self.expression_adapter}' changes one transformer, but '{self.base}' has two "
                "experts; train the expression module as part of adapter and adapter_2, and leave expression_adapter "
                "out",
                code=ErrorCode.unsupported,
                field="expression_adapter",
                value=str(self.expression_adapter),
            )

    def _check_base(self) -> None:
        if not self.extends_saved_pipeline:
            return
        if self.pipeline_config is None:
            what = "no adapter is given" if self.adapter is None else f"adapter '{self.adapter}' extends one"
            cure = "an adapter: adapter=FOLDER" if self.adapter is None else "the one it was trained on: base=FOLDER"
            raise InputError(
                f"the base '{self.base}' is not a saved {PIPELINE_CLASS_NAME}, and {what}; give {cure}",
                code=ErrorCode.conflict,
                field="adapter" if self.adapter is None else "base",
                value=str(self.base),
            )
        if self.components:
            name = next(iter(self.components))
            raise InputError(
                f"components.{name} is given, but '{self.base}' is a saved pipeline, which has its own; leave it out, "
                "or give a Wan base: base=FOLDER",
                code=ErrorCode.conflict,
                field=f"components.{name}",
                value=str(self.components[name]),
            )
        if self.adapter_config is None:
            return
        trained = self.adapter_config.audio_window, self.adapter_config.window_seconds
        if trained != self.audio_window:
            raise InputError(
                f"adapter '{self.adapter}' was trained with audio windows {trained}, the pipeline has "
                f"{self.audio_window}; use the pipeline that it was trained on",
                code=ErrorCode.conflict,
                field="audio_window",
                value=trained[0],
            )


def read_pipeline_config(folder: Path) -> dict[str, Any] | None:
    """Returns the model_index.json of a saved pipeline; None where `folder` is not one.

    Raises:
        InputError: the file is not valid JSON, or an entry has the wrong type.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("_class_name") != PIPELINE_CLASS_NAME:
        return None
    for name, kind in PIPELINE_CONFIG_TYPES.items():
        if type(values.get(name)) is not kind:
            raise InputError(
                f"'{path}': {name} is {values.get(name)!r}; a {kind.__name__} is needed: save the pipeline again",
                code=ErrorCode.malformed_file,
                field=name,
                value=values.get(name),
            )
    face_ranges_from_dict(values.get("face_ranges"), str(path))
    return values


def read_boundary_ratio(base: Path) -> float | None:
    """Returns the noise level that divides the two experts of a base; None where it has one transformer.

    Raises:
        InputError: the base has two transformers, but its model_index.json does not state the boundary.
    """
    if not (base / Expert.low.component).is_dir():
        return None
    path = base / "model_index.json"
    return check_boundary_ratio(read_json(path).get("boundary_ratio") if path.is_file() else None, f"'{path}'")


def _read_distillation(
    base: Path, adapter: Path | None, adapter_config: AdapterConfig | None
) -> DistillationSpec | None:
    """The adapter's, or else that of the base's transformer."""
    if adapter_config is not None and adapter_config.distillation is not None:
        return DistillationSpec.from_dict(adapter_config.distillation, str(adapter))
    path = base / "transformer" / "config.json"
    values = read_json(path).get("distillation") if path.is_file() else None  # loading reports a missing transformer
    return None if values is None else DistillationSpec.from_dict(values, str(path))
