"""Loading and saving of the transformer by diffusers' methods, which do nothing by halves."""

from functools import wraps
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, WanTransformer3DModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.diffusers_internals import keep_modules_whole
from fantasytalking.models.expression_config import upgrade_expression_keys
from fantasytalking.models.stored_linear import stored_weight_names

DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
"""Arguments of `from_pretrained` that say where the files are."""
BUILD_FROM_BASE = "build the model on it with fantasytalking.models.wan_loading.load_from_wan"


class GuardedLoading:
    """Methods that precede those of diffusers and refuse what these would do incompletely without an error."""

    _modules_kept_whole = ("motion_embedder", "guidance_embedder")
    """Modules that are never quantized: their few inputs are scalars or angles of scalars, and they are small."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """As in diffusers. A quantization leaves the modules whole that scalars are embedded by.

        Raises:
            InputError: the folder contains another model, such as a Wan base, or lacks weights.
        """
        source = pretrained_model_name_or_path
        where = {name: value for name, value in kwargs.items() if name in DOWNLOAD_ARGUMENTS}
        _check_class(cls, cls.load_config(source, **where).get("_class_name"), str(source))  # type: ignore[attr-defined]
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = keep_modules_whole(kwargs["quantization_config"], cls._modules_kept_whole)
        loaded = super().from_pretrained(source, **kwargs)  # type: ignore[misc]
        if kwargs.get("device_map") is None and not kwargs.get("output_loading_info"):
            missing = [name for name, parameter in loaded.named_parameters() if parameter.is_meta]
            if missing:
                raise InputError(
                    f"'{source}' lacks {len(missing)} weights of the transformer ({missing[0]}); get the folder again",
                    code=ErrorCode.shape_mismatch,
                    field="transformer",
                    value=missing[0],
                )
        return loaded

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """As in diffusers. Reads configurations of earlier releases, too."""
        return super().from_config(upgrade_expression_keys(config), **kwargs)  # type: ignore[misc]

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path_or_dict: Any, **_: Any) -> Any:
        """Refuses: a single file of Wan contains the base alone.

        Raises:
            InputError: always; names the function that builds a model on the base.
        """
        source = pretrained_model_link_or_path_or_dict
        shown = f"'{source}'" if isinstance(source, str | Path) else "a state dict"
        raise InputError(
            f"from_single_file({shown}) would load the base without the paper's modules; {BUILD_FROM_BASE}",
            code=ErrorCode.unsupported,
            field="from_single_file",
            value=None if isinstance(source, dict) else str(source),
        )

    @wraps(ModelMixin.save_pretrained)
    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        check_safe_serialization(safe_serialization)
        check_no_stored_weights(self, "saved")
        super().save_pretrained(  # type: ignore[misc]
            save_directory, is_main_process=is_main_process, save_function=save_function, **kwargs
        )

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers.

        Raises:
            InputError: weights stay as their file stores them, to which nothing can be added.
        """
        check_no_stored_weights(self, "changed by a LoRA")
        super().fuse_lora(*args, **kwargs)  # type: ignore[misc]

    def load_lora_adapter(self, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> None:
        """As in diffusers.

        Raises:
            InputError: no key has diffusers' names with the prefix, so that nothing would be loaded.
        """
        before = set(getattr(self, "peft_config", {}))
        super().load_lora_adapter(pretrained_model_name_or_path_or_dict, **kwargs)  # type: ignore[misc]
        if not kwargs.get("hotswap") and set(getattr(self, "peft_config", {})) == before:
            raise InputError(
                f"no tensor of the LoRA has a diffusers name with the prefix {kwargs.get('prefix', 'transformer')!r}; "
                "load it with pipe.load_lora_weights, which reads every spelling",
                code=ErrorCode.malformed_file,
                field="prefix",
                value=kwargs.get("prefix", "transformer"),
            )


def check_no_stored_weights(model: Any, action: str) -> None:
    """Checks that no weight of a model stays as its file stores it.

    Args:
        action: what is done to the weights, for the message: saved, ...

    Raises:
        InputError: some weights do.
    """
    if stored := stored_weight_names(model):
        raise InputError(
            f"{len(stored)} weights stay quantized as their file stores them ('{stored[0]}'), and cannot be {action}; "
            "load the model with optimizations.quantization=none (keep_quantized=False)",
            code=ErrorCode.unsupported,
            field="optimizations.quantization",
            value="stored",
        )


def check_safe_serialization(safe_serialization: bool) -> None:
    """Checks that weights are saved as safetensors.

    Raises:
        InputError: they would be pickled.
    """
    if not safe_serialization:
        raise InputError(
            "safe_serialization is False, but pickled weights are never read again; leave it out",
            code=ErrorCode.unsupported,
            field="safe_serialization",
            value=False,
        )


def _check_class(own: type, found: str | None, source: str) -> None:
    known = [parent.__name__ for parent in own.__mro__ if issubclass(parent, GuardedLoading)]
    if found in known:
        return
    is_base = found == WanTransformer3DModel.__name__
    cure = f"it is the base alone: {BUILD_FROM_BASE}" if is_base else f"a {known[0]} is needed"
    raise InputError(
        f"'{source}' contains a {found or 'model without a class name'}; {cure}",
        code=ErrorCode.invalid_choice,
        field="_class_name",
        value=found,
    )
