"""The transformer: equal to its base when new, independent of padding, the same cached and uncached."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig, WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.tensor_io import LazyTensors
from fantasytalking.conditions import Conditions
from fantasytalking.models.cpu import attention as cpu_attention
from fantasytalking.models.cpu.attention import matmul_attention, use_float32_attention, use_matmul_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import build_from_wan, load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import BASE, PORTRAIT, save_base, tiny_conditions, tiny_latents, tiny_transformer

MATMUL = "matmul"
CPU_BACKENDS = ["native", "_native_math", "_native_flash", "flex"]


@pytest.fixture(autouse=True)
def native_backend() -> Iterator[None]:
    """`set_attention_backend` also changes diffusers' default for every model made after it."""
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


def for_each(conditions: Conditions, change: Callable[[Tensor], Tensor]) -> Conditions:
    """Applies `change` to every condition that is not None."""
    return Conditions(*(None if value is None else change(value) for value in conditions))


@torch.no_grad()
def predict(
    model: FantasyTalkingTransformer3DModel, conditions: Conditions, cache: ConditionKVCache | None = None
) -> Tensor:
    latents, timestep = tiny_latents(frames=conditions.image_latents.shape[2])
    return model(latents, timestep, conditions, cache=cache).sample


def test_no_tensor_is_read_without_materialize():
    def read(name: str) -> Tensor:
        raise AssertionError(f"'{name}' was read")

    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in WanTransformer3DModel(**BASE).state_dict().items()}
    model = build_from_wan(BASE, PORTRAIT, LazyTensors("nothing", shapes, read), torch.bfloat16, materialize=False)
    assert model.proj_out.weight.dtype == torch.bfloat16
    assert model.scale_shift_table.dtype == torch.float32
    assert {value.device.type for value in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("windows", [1, 5])
def test_a_new_model_equals_its_base_bitwise(tmp_path, dtype, windows):
    folder = save_base(tmp_path / "transformer")
    base = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype)
    model = load_from_wan(folder, PORTRAIT, dtype)
    text = torch.randn(2, 512, BASE["text_dim"])  # diffusers' own attention takes 512 text tokens for granted
    latents, timestep = tiny_latents()
    for seed in range(3):
        conditions = tiny_conditions(windows=windows, seed=seed)._replace(prompt_embeds=text).to(dtype=dtype)
        with torch.no_grad():
            expected = base(
                torch.cat([latents.to(dtype), conditions.image_latents], dim=1),
                timestep,
                conditions.prompt_embeds,
                conditions.image_embeds,
            ).sample
            assert torch.equal(model(latents.to(dtype), timestep, conditions).sample, expected)


def set_backend(model: FantasyTalkingTransformer3DModel, backend: str) -> None:
    if backend == MATMUL:
        use_matmul_attention(model)
    else:
        model.set_attention_backend(backend)


def test_every_condition_changes_the_prediction_of_a_trained_model():
    model, conditions = tiny_transformer(), tiny_conditions()
    reference = predict(model, conditions)
    other = tiny_conditions(seed=9)
    for name in ("prompt_embeds", "image_embeds", "image_latents", "audio_embeds", "face_embeds", "motion_intensity"):
        changed = predict(model, conditions._replace(**{name: getattr(other, name)}))
        assert not torch.allclose(changed, reference, atol=1e-4), name
    for scale in ([0.0, 1.0], [1.0, 0.0]):
        changed = predict(model, conditions._replace(condition_scale=torch.tensor([scale, scale])))
        assert not torch.allclose(changed, reference, atol=1e-4)


def test_a_condition_scale_of_zero_removes_the_attention():
    model, conditions = tiny_transformer(), tiny_conditions()
    closed = conditions._replace(condition_scale=torch.zeros(2, 2))
    other = tiny_conditions(seed=9)
    assert torch.equal(
        predict(model, closed),
        predict(model, closed._replace(audio_embeds=other.audio_embeds, face_embeds=other.face_embeds)),
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("backend", [*CPU_BACKENDS, MATMUL])
@pytest.mark.parametrize("windows", [1, 5])
def test_padding_has_no_effect_under_any_backend(backend, windows):
    model, conditions = tiny_transformer(), tiny_conditions(windows=windows)
    reference = predict(model, conditions)
    set_backend(model, backend)
    padding = ~conditions.audio_mask[..., None]
    outputs = [
        predict(model, conditions._replace(audio_embeds=conditions.audio_embeds.masked_fill(padding, value)))
        for value in (0.0, 1e3, float("nan"))
    ]
    shorter = conditions.audio_mask.any(dim=(0, 1)).sum()  # columns that hold a real token somewhere
    outputs.append(
        predict(
            model,
            conditions._replace(
                audio_embeds=conditions.audio_embeds[:, :, :shorter], audio_mask=conditions.audio_mask[:, :, :shorter]
            ),
        )
    )
    for output in outputs:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs[0], reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_permuting_the_batch_permutes_the_output(backend):
    model, conditions = tiny_transformer(), tiny_conditions(batch=3)
    conditions.audio_mask[1, 2, 1:] = False  # samples with paddings of their own
    conditions.condition_scale[2] = torch.tensor([0.0, 1.0])
    model.set_attention_backend(backend)
    latents, timestep = tiny_latents(batch=3)
    order = torch.tensor([2, 0, 1])
    permuted = for_each(conditions, lambda value: value[order])
    with torch.no_grad():
        expected = model(latents, timestep, conditions).sample[order]
        torch.testing.assert_close(model(latents[order], timestep[order], permuted).sample, expected, rtol=0, atol=1e-6)


def test_a_window_without_a_real_token_adds_nothing():
    model, conditions = tiny_transformer(), tiny_conditions()
    nothing = conditions._replace(audio_mask=torch.zeros_like(conditions.audio_mask))
    closed = conditions._replace(condition_scale=torch.tensor([[0.0, 1.0]] * 2))
    assert torch.equal(predict(model, nothing), predict(model, closed))


def test_frame_level_audio_reaches_its_own_latent_frame_only():
    """Checks the first cross-attention alone, before self-attention mixes frames."""
    model = tiny_transformer(num_layers=1)
    conditions = tiny_conditions(batch=1)
    outputs: list[Tensor] = []
    model.blocks[0].attn2.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    latents, timestep = tiny_latents(batch=1)
    audio = conditions.audio_embeds.clone()
    audio[:, 2] += 1.0
    with torch.no_grad():
        model(latents, timestep, conditions)
        model(latents, timestep, conditions._replace(audio_embeds=audio))
    difference = (outputs[1] - outputs[0]).unflatten(1, (5, 16)).abs().amax(dim=(0, 2, 3))  # per latent frame
    assert difference[2] > 1e-3
    assert difference[[0, 1, 3, 4]].max() == 0


def test_conditions_of_batch_one_apply_to_the_whole_batch():
    model, conditions = tiny_transformer(), tiny_conditions(batch=1)
    doubled = for_each(conditions, lambda value: value.repeat(2, *[1] * (value.ndim - 1)))
    torch.testing.assert_close(predict(model, conditions), predict(model, doubled), rtol=0, atol=1e-6)


def test_branches_share_layers_before_the_first_cross_attention():
    model, conditions = tiny_transformer(), tiny_conditions(batch=1)
    latents, timestep = tiny_latents(batch=1)
    texts = torch.cat(
        [tiny_conditions(batch=1, seed=9).prompt_embeds, conditions.prompt_embeds, conditions.prompt_embeds]
    )
    branches = conditions._replace(
        prompt_embeds=texts, condition_scale=torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    )
    attended: list[int] = []
    model.blocks[0].attn1.register_forward_hook(lambda module, inputs, output: attended.append(output.shape[0]))
    with torch.no_grad():
        shared = model(latents, timestep, branches).sample
        repeated = model(latents.repeat(3, 1, 1, 1, 1), timestep.repeat(3), branches).sample
    assert attended == [1, 3]
    torch.testing.assert_close(shared, repeated, rtol=0, atol=1e-5)
    assert (shared[2] - shared[1]).abs().max() > 1e-2 < (shared[1] - shared[0]).abs().max()


def test_fused_blocks_equal_the_others_up_to_rounding():
    exact, fused = tiny_transformer(num_layers=4), tiny_transformer(num_layers=4)
    fuse_blocks(fused)
    assert fused.state_dict().keys() == exact.state_dict().keys()
    latents, timestep = tiny_latents(batch=1)
    conditions = tiny_conditions(batch=1)
    texts = torch.cat([tiny_conditions(batch=1, seed=9).prompt_embeds, conditions.prompt_embeds])
    conditions = conditions._replace(prompt_embeds=texts, condition_scale=torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    passes: list[object] = []
    handle = fused.blocks[1].norm1.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        found, expected = (model(latents, timestep, conditions).sample for model in (fused, exact))
        assert not passes, "the norm is fused"
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        apart = fused(latents.repeat(2, 1, 1, 1, 1), torch.tensor([100.0, 900.0]), conditions).sample
        handle.remove()
        one = exact(latents.repeat(2, 1, 1, 1, 1), torch.tensor([100.0, 900.0]), conditions).sample
    assert passes, "samples of several timesteps use Wan's forward"
    assert torch.equal(apart, one)
    fused(latents, timestep, conditions).sample.sum().backward()
    assert fused.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0


def test_blocks_are_fused_before_hooks_wrap_them():
    model = tiny_transformer()
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(AssertionError, match="precedes hooks"):
        fuse_blocks(model)


def test_float32_attention_of_a_bfloat16_model_is_more_exact():
    exact, half, wide, fused = (tiny_transformer(num_layers=8) for _ in range(4))
    conditions = tiny_conditions(batch=1)
    latents, timestep = tiny_latents(batch=1)
    with torch.no_grad():
        reference = exact(latents, timestep, conditions).sample
    use_float32_attention(wide.bfloat16())
    use_float32_attention(fused.bfloat16())
    fuse_blocks(fused)
    with torch.no_grad():
        errors = [
            (model(latents.bfloat16(), timestep, conditions.to(dtype=torch.bfloat16)).sample.float() - reference).norm()
            for model in (half.bfloat16(), wide, fused)
        ]
    assert 0 < errors[1] < errors[0] < 0.05 * reference.norm()
    assert 0 < errors[2] < errors[0]
    assert torch.backends.mkldnn.matmul.fp32_precision == "none", "the setting is restored"


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_matmul_attention_has_the_gradients_of_the_native_backend(dtype: torch.dtype, limit: float):
    conditions = tiny_conditions(windows=5)
    latents, timestep = tiny_latents()
    gradients = []
    for backend in ("native", MATMUL):
        model = tiny_transformer()
        set_backend(model, backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            model(latents, timestep, conditions).sample.float().square().mean().backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert gradients[0].norm() > 0
    assert (gradients[1] - gradients[0]).norm() < limit * gradients[0].norm()


def test_matmul_attention_above_the_limit_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    query, key, value = torch.randn(3, 2, 7, 2, 8)
    mask = torch.rand(2, 1, 1, 7) < 0.6
    mask[..., 0] = True
    few = matmul_attention(query, key, value, mask)
    calls = []
    own = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        cpu_attention.F, "scaled_dot_product_attention", lambda *a, **b: calls.append(1) or own(*a, **b)
    )
    monkeypatch.setattr(cpu_attention, "MAX_LOGITS", 2 * 2 * 7 * 7)
    assert torch.equal(matmul_attention(query, key, value, mask), few) and not calls
    monkeypatch.setattr(cpu_attention, "MAX_LOGITS", 2 * 2 * 7 * 7 - 1)
    torch.testing.assert_close(matmul_attention(query, key, value, mask), few)
    assert calls


def test_cached_and_uncached_forwards_agree_exactly_over_steps_and_branches():
    model, conditions = tiny_transformer(), tiny_conditions()
    negative = conditions._replace(
        prompt_embeds=tiny_conditions(seed=9).prompt_embeds, condition_scale=torch.zeros(2, 2)
    )
    silent = conditions._replace(condition_scale=torch.tensor([[0.0, 1.0]] * 2))
    cache = ConditionKVCache()
    for _step in range(3):
        for branch in (negative, silent, conditions):
            assert torch.equal(predict(model, branch, cache), predict(model, branch))
    held = cache.nbytes()
    predict(model, conditions, cache)
    assert cache.nbytes() == held > 0


def test_the_cache_projects_each_condition_once():
    model, conditions = tiny_transformer(), tiny_conditions()
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("attn2.to_k", "attn2.add_v_proj", "audio_k_proj", "face_v_proj", "text_embedder")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    cache = ConditionKVCache()
    for _step in range(4):
        predict(model, conditions, cache)
    assert sorted(calls) == sorted(set(calls))
    assert len(calls) == 4 * BASE["num_layers"] + 1


@pytest.mark.parametrize(("kind", "groups"), [("block_level", 1), ("leaf_level", None)])
def test_offloaded_blocks_compute_the_same_and_still_fill_the_cache(kind, groups):
    """Uses a single device, with the hooks that otherwise move blocks to a GPU and back."""
    conditions, cache = tiny_conditions(), ConditionKVCache()
    expected = predict(tiny_transformer(), conditions)
    model, cpu = tiny_transformer(), torch.device("cpu")
    model.enable_group_offload(cpu, cpu, offload_type=kind, num_blocks_per_group=groups)
    assert torch.equal(predict(model, conditions, cache), expected)
    held = cache.nbytes()
    assert held > tiny_conditions().audio_embeds.nbytes * BASE["num_layers"]
    assert torch.equal(predict(model, conditions, cache), expected)
    assert cache.nbytes() == held


def test_a_cache_rejects_new_conditions_at_every_step():
    model, cache = tiny_transformer(), ConditionKVCache()
    with raises_input_error(ErrorCode.out_of_range, "text", 9):
        for _step in range(9):
            predict(model, tiny_conditions(), cache)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        latents, timestep = tiny_latents()
        model(latents, timestep, tiny_conditions()).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_new_modules_train_from_the_first_step():
    model, conditions = tiny_transformer(trained=False).train(), tiny_conditions()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    latents, timestep = tiny_latents()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for _step in range(2):
        optimizer.zero_grad()
        (model(latents, timestep, conditions).sample - 1).square().mean().backward()
        optimizer.step()
    names = [name for name in before if any(part in name for part in ("audio_", "face_", "motion_"))]
    unchanged = [name for name in names if torch.equal(before[name], dict(model.named_parameters())[name])]
    assert names and not unchanged


STEP_CACHES = [
    (FirstBlockCacheConfig(threshold=1e9), 1),
    (MagCacheConfig(threshold=1e9, max_skip_steps=9, num_inference_steps=6, mag_ratios=[1.0] * 6), 1),
    (TaylorSeerCacheConfig(9, disable_cache_before_step=1, max_order=0, taylor_factors_dtype=torch.float32), 2),
]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("config", "computes"), STEP_CACHES, ids=["first block", "MagCache", "TaylorSeer"])
def test_step_caches_skip_blocks_and_keep_guidance_branches_apart(config, computes, fused):
    model, conditions = tiny_transformer(), tiny_conditions()
    if fused:
        fuse_blocks(model)
    silent = conditions._replace(condition_scale=torch.tensor([[0.0, 1.0]] * 2))
    plain = {"audio": predict(model, conditions), "silent": predict(model, silent)}
    calls: list[int] = []
    model.blocks[1].ffn.net[0].register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(config)
    cache = ConditionKVCache()
    for step in range(4):
        for name, branch in (("audio", conditions), ("silent", silent)):
            with model.cache_context(name, step_index=step):
                output = predict(model, branch, cache)
            # The inputs do not change, so the cached features of this branch are exact for it, and only for it.
            torch.testing.assert_close(output, plain[name], rtol=0, atol=1e-5)
    assert len(calls) == 2 * computes
    assert (plain["audio"] - plain["silent"]).abs().max() > 1e-2
    model.disable_cache()
    assert torch.equal(predict(model, conditions), plain["audio"])


def test_lora_scale_and_peft_adapters_reach_the_base():
    from peft import LoraConfig

    model, conditions = tiny_transformer(), tiny_conditions()
    reference = predict(model, conditions)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert not torch.allclose(predict(model, conditions), reference)
    latents, timestep = tiny_latents()
    with torch.no_grad():
        off = model(latents, timestep, conditions, attention_kwargs={"scale": 0.0}).sample
    torch.testing.assert_close(off, reference, rtol=0, atol=1e-6)


def test_a_saved_model_is_loaded_with_its_modules(tmp_path):
    model, conditions = tiny_transformer(), tiny_conditions()
    model.save_pretrained(tmp_path)
    loaded = FantasyTalkingTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded, conditions), predict(model, conditions))


def test_compiled_blocks_agree():
    model, conditions = tiny_transformer(), tiny_conditions()
    reference = predict(model, conditions)
    model.compile_repeated_blocks(backend="aot_eager")
    cache = ConditionKVCache()
    for _step in range(2):
        torch.testing.assert_close(predict(model, conditions, cache), reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("prompt_embeds", torch.randn(2, 9, 21), ErrorCode.shape_mismatch),
        ("prompt_embeds", torch.randn(3, 9, 20), ErrorCode.shape_mismatch),
        ("image_embeds", None, ErrorCode.missing_value),
        ("image_latents", torch.randn(2, 20, 5, 6, 8), ErrorCode.shape_mismatch),
        ("audio_embeds", torch.randn(2, 4, 7, 12), ErrorCode.shape_mismatch),
        ("audio_embeds", torch.randn(2, 5, 12), ErrorCode.shape_mismatch),
        ("audio_embeds", torch.randn(2, 5, 7, 12).half(), ErrorCode.invalid_type),
        ("audio_mask", torch.ones(2, 5, 6, dtype=torch.bool), ErrorCode.shape_mismatch),
        ("audio_mask", torch.ones(2, 5, 7), ErrorCode.invalid_type),
        ("face_embeds", torch.randn(2, 32), ErrorCode.shape_mismatch),
        ("face_embeds", torch.randn(2, 0, 32), ErrorCode.shape_mismatch),
        ("motion_intensity", torch.rand(2, 1), ErrorCode.shape_mismatch),
        ("condition_scale", torch.ones(2, 3), ErrorCode.shape_mismatch),
    ],
)
def test_conditions_that_do_not_fit_are_rejected_by_name(name, value, code):
    reported = None
    if value is not None:
        reported = tuple(value.shape) if code is ErrorCode.shape_mismatch else value.dtype
    with raises_input_error(code, name, reported):
        predict(tiny_transformer(), tiny_conditions()._replace(**{name: value}))


def test_latents_and_timesteps_that_do_not_fit_are_rejected():
    model, conditions = tiny_transformer(), tiny_conditions()
    latents, timestep = tiny_latents()
    with raises_input_error(ErrorCode.shape_mismatch, "latent height", 7):
        model(latents[:, :, :, :7], timestep, conditions)
    with raises_input_error(ErrorCode.shape_mismatch, "latents", (2, 15, 5, 8, 8)):
        model(latents[:, :15], timestep, conditions)
    with raises_input_error(ErrorCode.shape_mismatch, "timestep", (1,)):
        model(latents, timestep[:1], conditions)
