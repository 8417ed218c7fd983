"""Private names of diffusers and torch: each test names the one that an upgrade removed or changed."""

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FirstBlockCacheConfig,
    ModelMixin,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn import functional as F

from fantasytalking.models import diffusers_internals as internals
from fantasytalking.models.cpu.fused_block import FusedPortraitBlock
from fantasytalking.models.portrait_block import PortraitBlock
from tests.helpers.tiny_transformer import BASE, tiny_conditions, tiny_latents, tiny_transformer


def assert_reads(function: Any, *names: str) -> None:
    """Asserts that the source of a function of diffusers still mentions `names`."""
    source = inspect.getsource(function)
    missing = [name for name in names if name not in source]
    assert not missing, f"diffusers' {function.__qualname__} no longer uses {', '.join(missing)}"


def test_set_attention_backend_writes_attention_backend():
    assert_reads(ModelMixin.set_attention_backend, "_attention_backend")
    model = tiny_transformer(num_layers=1)
    assert model.blocks[0].attn2.processor.attention_backend is None
    try:
        model.set_attention_backend("_native_math")
        backend = model.blocks[0].attn2.processor.attention_backend
        assert str(getattr(backend, "value", backend)) == "_native_math", "_attention_backend is not written"
    finally:
        model.set_attention_backend("native")


def test_enable_parallelism_reads_the_plan_and_writes_parallel_config():
    assert_reads(ModelMixin.enable_parallelism, "_cp_plan", "_parallel_config", "_resolve_parallel_config")
    assert hasattr(WanAttnProcessor, "_parallel_config"), "WanAttnProcessor lost _parallel_config"
    model = tiny_transformer(num_layers=1)
    assert not internals.is_context_parallel(model)
    assert not internals.is_context_parallel(model.blocks[0].attn2.processor)


def test_the_context_parallel_plan_is_wans_with_the_token_index():
    plan = WanTransformer3DModel._cp_plan
    assert {"rope", "blocks.0", "proj_out"} <= plan.keys(), "WanTransformer3DModel._cp_plan has other entries"
    assert internals.WanContextParallelism._cp_plan.keys() == (plan.keys() - {""}) | {"token_index"}


def test_resolve_parallel_config_is_overridden():
    wan = inspect.signature(WanTransformer3DModel._resolve_parallel_config).parameters
    assert wan.keys() == {"self", "config"}, "_resolve_parallel_config has other arguments"
    setup = inspect.signature(internals.ParallelConfig.setup).parameters
    assert list(setup)[1:] == ["rank", "world_size", "device", "mesh"], "ParallelConfig.setup has other arguments"


def test_gradient_checkpointing_function_runs_a_block():
    model = tiny_transformer(num_layers=1)
    model.enable_gradient_checkpointing()
    weight = torch.ones(3, requires_grad=True)
    internals.run_checkpointed(model, torch.nn.Identity(), weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(3)), "_gradient_checkpointing_func does not call the block"


def test_modules_kept_in_float32_are_named():
    names = internals.float32_module_names(tiny_transformer(num_layers=1))
    assert {"time_embedder", "scale_shift_table", "norm2"} <= set(names), "_keep_in_fp32_modules is missing or empty"


@pytest.mark.parametrize("block", [PortraitBlock, FusedPortraitBlock])
def test_blocks_are_registered_for_step_caches(block: type[torch.nn.Module]):
    metadata = internals.TransformerBlockRegistry.get(block)
    assert metadata.return_hidden_states_index == 0, "TransformerBlockMetadata changed"


@torch.no_grad()
def test_reset_step_cache_clears_the_features():
    assert hasattr(ModelMixin, "_reset_stateful_cache") or hasattr(WanTransformer3DModel, "_reset_stateful_cache")
    model, calls = tiny_transformer(), []
    model.blocks[1].ffn.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    latents, timestep = tiny_latents()
    for _ in range(2):
        with model.cache_context("only"):
            model(latents, timestep, tiny_conditions())
    assert len(calls) == 1
    internals.reset_step_cache(model)
    with model.cache_context("only"):
        model(latents, timestep, tiny_conditions())
    assert len(calls) == 2, "_reset_stateful_cache keeps the features"


def test_a_pipeline_has_an_execution_device():
    assert hasattr(DiffusionPipeline, "_execution_device"), "DiffusionPipeline lost _execution_device"
    transformer = WanTransformer3DModel(**BASE)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=transformer)
    assert internals.execution_device(pipe) == torch.device("cpu")


def test_the_fused_linear_layer_is_gelu_of_it():
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise"), "torch lost torch.ops.mkldnn._linear_pointwise"
    layer, inputs = torch.nn.Linear(16, 32).bfloat16(), torch.randn(2, 5, 16).bfloat16()
    with torch.no_grad():
        fused = internals.linear_gelu_tanh(inputs, layer.weight, layer.bias)
        expected = F.gelu(layer(inputs).float(), approximate="tanh")
    torch.testing.assert_close(fused.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ModelMixin, "_no_split_modules"),
        (ModelMixin, "_repeated_blocks"),
        (AttentionModuleMixin, "_default_processor_cls"),
        (AttentionModuleMixin, "_available_processors"),
    ],
)
def test_attributes_for_subclasses_exist(owner: type, name: str):
    assert hasattr(owner, name), f"diffusers' {owner.__name__} no longer reads {name}"


def test_step_caches_with_one_state_per_hook():
    """Hooks of both keep `state`, which is created anew by its class and counts its `iteration`."""
    from diffusers.hooks.faster_cache import FasterCacheBlockHook, FasterCacheDenoiserHook
    from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook

    for hook in (FasterCacheBlockHook, FasterCacheDenoiserHook, PyramidAttentionBroadcastHook):
        assert_reads(hook.new_forward, "self.state.iteration")
        assert_reads(hook.initialize_hook, "self.state = ")
    assert_reads(FasterCacheBlockHook.__init__, "block_skip_range")


def test_lora_files_are_fetched(tmp_path):
    from diffusers.loaders.lora_base import _fetch_state_dict
    from safetensors.torch import save_file

    parameters = inspect.signature(_fetch_state_dict).parameters
    assert {*internals.LORA_DOWNLOAD_ARGUMENTS, "use_safetensors", "allow_pickle", "user_agent"} <= parameters.keys()
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    state, config = internals.fetch_lora_file(str(tmp_path / "lora.safetensors"), {})
    assert state.keys() == {"a"} and config is None


def test_a_pipeline_quantization_is_resolved_by_component():
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    kind = BitsAndBytesConfig(load_in_8bit=True)
    config = PipelineQuantizationConfig(quant_mapping={"transformer": kind})
    assert internals.component_quantization(config, "transformer") is kind
    assert internals.component_quantization(config, "vae") is internals.component_quantization(None, "vae") is None
    kept = internals.keep_modules_whole(kind, ["motion_embedder"])
    assert kept.llm_int8_skip_modules == ["motion_embedder"] and kind.llm_int8_skip_modules is None


def test_the_devices_of_a_pipeline():
    assert "cpu" in internals.supported_device_maps() and "balanced" not in internals.supported_device_maps()


def test_conditions_are_registered_for_export():
    spec = torch.utils._pytree.tree_flatten(tiny_conditions(1))[1]
    assert "fantasytalking.conditions.Conditions" in torch.utils._pytree.treespec_dumps(spec)
