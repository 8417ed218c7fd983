#!/usr/bin/env python
"""Prints the table of parameter counts in README.md: every preset, built without memory for its weights."""

from collections import Counter
from time import perf_counter

import torch
from diffusers import WanTransformer3DModel

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.models.presets import MODEL_PRESETS, build_meta_transformer, load_model_config, transformer_kwargs
from fantasytalking.models.wan_loading import adapter_module_of


def table_row(preset: str) -> str:
    """One row of the table; also holds that the base's keys are exactly those of diffusers' own transformer."""
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


def main() -> None:
    print("| preset | base keys | base | audio | face | motion | total | built in |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in MODEL_PRESETS:
        print(table_row(preset), flush=True)


if __name__ == "__main__":
    exit_cleanly(main)
