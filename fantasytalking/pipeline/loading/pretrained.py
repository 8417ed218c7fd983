"""The pipeline as a whole: what it can do, and how it is loaded, saved and placed."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from diffusers import AutoencoderKLWan, DiffusionPipeline
from transformers import UMT5EncoderModel

from fantasytalking.face_range import face_ranges_from_dict
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.experts import Experts
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.encoder_components import ExpressionEncoderFolder, FaceEncoderFile
from fantasytalking.pipeline.loading.component_files import resolve_components
from fantasytalking.pipeline.loading.model_components import (
    ComponentCallback,
    align_weights,
    check_can_be_saved,
    load_pipeline_from_base,
    load_saved_pipeline,
    read_saved_model,
)
from fantasytalking.pipeline.loading.options import LoadingOptions
from fantasytalking.pipeline.loading.stored_model import StoredModel
from fantasytalking.pipeline.model_facts import ModelFacts


class PretrainedPipeline(DiffusionPipeline):
    """A diffusers pipeline whose components are loaded strictly, by this project."""

    transformer: FantasyTalkingTransformer3DModel
    transformer_2: FantasyTalkingTransformer3DModel | None
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel | None
    face_encoder: FaceEncoderFile | None
    expression_encoder: ExpressionEncoderFolder | None

    @property
    def experts(self) -> Experts:
        """The transformers by noise level."""
        return Experts(self.transformer, self.transformer_2, self.config.boundary_ratio)

    @property
    def trained_modules(self) -> list[str]:
        """Trained modules among audio, face, motion, expression and registered conditions."""
        return self.config.trained_modules.split(",")

    @property
    def facts(self) -> ModelFacts:
        """What the model can do: what `plan_generation` checks controls against."""
        return ModelFacts(
            tuple(self.trained_modules),
            self.transformer.distillation,
            LatentGeometry.from_configs(self.vae.config, self.transformer.config),
            self.face_encoder is not None,
            self.expression_encoder is not None,
            face_ranges_from_dict(self.config.face_ranges, "pipeline"),
            has_experts=self.transformer_2 is not None,
            conditions=self.transformer.config.conditions or {},
        )

    text_encoder_on_cpu = False
    """Whether the text encoder computes on the CPU, wherever the other components are moved."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        with self._without_text_encoder_on_cpu():
            super().to(*args, **kwargs)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        with self._without_text_encoder_on_cpu():
            super().enable_model_cpu_offload(*args, **kwargs)

    def enable_group_offload(self, *args: Any, exclude_modules: str | list[str] | None = None, **kwargs: Any) -> None:
        """As in diffusers, but VAE and audio encoder, parts of which are called, stay on the device (0.9 GB)."""
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or [])
        with self._without_text_encoder_on_cpu():
            super().enable_group_offload(*args, exclude_modules=[*excluded, "vae", "audio_encoder"], **kwargs)

    @contextmanager
    def _without_text_encoder_on_cpu(self) -> Iterator[None]:
        components = self.__dict__  # diffusers would forget the class of a component that is set to None
        encoder = components["text_encoder"]
        if self.text_encoder_on_cpu:
            components["text_encoder"] = None
        try:
            yield
        finally:
            components["text_encoder"] = encoder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        adapter: str | Path | None = None,
        adapter_2: str | Path | None = None,
        expression_adapter: str | Path | None = None,
        progress: ComponentCallback = lambda _: None,
        **kwargs: Any,
    ) -> Self:
        """Loads a pipeline that `save_pretrained` wrote.

        Args:
            source: a folder, or a hub id.
            adapter, adapter_2, expression_adapter: adapters that extend the pipeline; `adapter_2` the low-noise expert
                of one with two.
            progress: called with the name of each component once it is loaded.
            kwargs: options of `fantasytalking.pipeline.loading.options.LoadingOptions`, and components that are already
                loaded, by name.

        Raises:
            InputError: an argument is unknown or invalid; the pipeline or an adapter is missing, damaged or incomplete.
        """
        names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        options, given = LoadingOptions.split(kwargs, names)
        model = read_saved_model(source, adapter, expression_adapter, options, adapter_2)
        pipe = cls._from_arguments(load_saved_pipeline(model, options, given, progress))
        pipe.register_to_config(_name_or_path=str(source))
        if options.device_map is not None:
            pipe.hf_device_map = options.device_map
        return pipe

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        adapter: str | Path,
        *,
        adapter_2: str | Path | None = None,
        expression_adapter: str | Path | None = None,
        face_encoder: str | Path | None = None,
        components: Mapping[str, str | Path] = MappingProxyType({}),
        **kwargs: Any,
    ) -> Self:
        """Loads a Wan base with an adapter, or one for each expert, as `load_pipeline_from_base` does.

        Args:
            base: a folder of diffusers or of Wan's own repository, or a transformer's file with `components`.
            adapter, adapter_2, expression_adapter: adapter folders, or released files.
            face_encoder: ArcFace .onnx.
            components: single files in place of components of the base, by the names of `ComponentFiles`.
            kwargs: as `load_pipeline_from_base`.

        Raises:
            InputError: a component is missing, damaged, incomplete or of another kind.
        """
        model = StoredModel.read(
            base,
            adapter,
            adapter_2=adapter_2,
            expression_adapter=expression_adapter,
            face_encoder=face_encoder,
            components=resolve_components(Path(base), components, kwargs.get("audio_encoder")),
        )
        return cls._from_arguments(load_pipeline_from_base(model, **kwargs))

    @classmethod
    def from_stored_model(
        cls,
        model: StoredModel,
        *,
        is_for_cpu: bool = True,
        given: Mapping[str, Any] = MappingProxyType({}),
        **kwargs: Any,
    ) -> Self:
        """Loads a model whose descriptions were read before: a saved pipeline in a dtype, or as `from_base`.

        Args:
            is_for_cpu: False: the weights are moved to another device, so that they need not be aligned, which copies
                those of most files.
            given: components that are already loaded, or left out as None, by name.
        """
        if not model.extends_saved_pipeline:
            return cls._from_arguments(load_pipeline_from_base(model, given=given, **kwargs), is_for_cpu)
        options, others = LoadingOptions.split(kwargs, ["progress"])
        return cls._from_arguments(load_saved_pipeline(model, options, given, **others), is_for_cpu)

    @classmethod
    def _from_arguments(cls, arguments: Mapping[str, Any], is_for_cpu: bool = True) -> Self:
        pipe = cls(**arguments)
        if is_for_cpu:
            align_weights(pipe.components)
        return pipe

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves the whole pipeline as a diffusers folder.

        Raises:
            InputError: the transformer has an unfused LoRA, which a diffusers folder cannot hold, or weights would be
                pickled.
        """
        for transformer in self.experts:
            check_can_be_saved(transformer, Path(save_directory), safe_serialization)
        super().save_pretrained(str(save_directory), variant=variant, **kwargs)
