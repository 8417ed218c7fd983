"""Counts the parameters of every preset, without memory for the weights."""

from collections import Counter
from collections.abc import Iterator
from time import perf_counter

import torch
from diffusers import WanTransformer3DModel

from fantasytalking.models.presets import build_meta_transformer, load_model_config, model_presets, transformer_kwargs
from fantasytalking.models.wan_loading import adapter_module_of


def parameter_table() -> Iterator[str]:
    """Yields the lines of a Markdown table with one row per preset, each as soon as it is counted."""
    yield "| preset | base keys | base | audio | face | motion | total | built in |"
    yield "|---|---|---|---|---|---|---|---|"
    for preset in model_presets():
        yield _table_row(preset)


def _table_row(preset: str) -> str:
    """Returns one row; asserts that the base's keys are exactly those of diffusers' own transformer."""
    start = perf_counter()
    config = load_model_config(preset)
    model = build_meta_transformer(config)
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        sizes[adapter_module_of(name) or "base"] += parameter.numel()
    seconds = perf_counter() - start

    portrait_keys = vars(config.portrait).keys()
    with torch.device("meta"):
        base = WanTransformer3DModel(
            **{key: value for key, value in transformer_kwargs(config).items() if key not in portrait_keys}
        )
    base_keys = {key for key in model.state_dict() if adapter_module_of(key) is None}
    assert base_keys == base.state_dict().keys(), f"{preset}: base keys differ from diffusers'"
    columns = (sizes["base"], sizes["audio"], sizes["face"], sizes["motion"], sum(sizes.values()))
    numbers = " | ".join(f"{size / 1e6:,.2f} M" for size in columns)
    return f"| {preset} | {len(base_keys)} | {numbers} | {seconds:.1f} s |"
