"""Loads the text encoder of a model alone, before its other components."""

import torch

from fantasytalking.encoders.wan import TextEncoder
from fantasytalking.pipeline.loading.component_files import load_text_encoder
from fantasytalking.pipeline.loading.options import LoadingOptions
from fantasytalking.pipeline.loading.stored_model import StoredModel

NAME = "text_encoder"


def load_stored_text_encoder(
    model: StoredModel, torch_dtype: torch.dtype, text_length: int, keep_quantized: bool = False
) -> TextEncoder:
    """Loads umT5 and its tokenizer as the pipeline of the model would.

    Args:
        torch_dtype: of the weights.
        text_length: tokens that prompts are truncated to; a saved pipeline has its own.
        keep_quantized: as in `load_text_encoder`.

    Raises:
        InputError: one is missing, damaged or incomplete.
    """
    options, _ = LoadingOptions.split({"torch_dtype": torch_dtype}, [])
    arguments = {"dtype": options.component_dtype(NAME), **options.component_options(model.base, NAME)}
    encoder = load_text_encoder(model.base, model.components, keep_quantized=keep_quantized, **arguments)
    saved = model.pipeline_config if model.extends_saved_pipeline else None
    encoder.max_tokens = text_length if saved is None else saved["text_length"]
    return encoder
