"""The pipeline as a diffusers pipeline: options of loading, components, the contract of a call, step caches."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FasterCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline import FantasyTalkingPipeline, GuidanceSchedule, Portrait
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import random_speech
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

ENCODERS = ("face_encoder", "expression_encoder", "motion_normalizer")


def generate(pipe: FantasyTalkingPipeline, portrait: Portrait, seconds: float = 0.3, **options):
    settings = {"num_inference_steps": 2, "window_frames": 17, "overlap_frames": 8, "output_type": "latent"}
    settings["generator"] = torch.Generator().manual_seed(0)
    return pipe(portrait, random_speech(seconds), **{**settings, **options})


def latents(pipe: FantasyTalkingPipeline, portrait: Portrait, **options) -> torch.Tensor:
    return generate(pipe, portrait, **options).frames


class TestLoading:
    def test_a_dtype_for_each_component(self, saved):
        dtypes = {"transformer": torch.bfloat16, "vae": torch.float16, "default": torch.float64}
        parts = FantasyTalkingPipeline.from_pretrained(saved, torch_dtype=dtypes).components
        names = ("transformer", "vae", "text_encoder", "image_encoder", "audio_encoder")
        assert [parts[name].dtype for name in names] == [
            *(torch.bfloat16, torch.float16, torch.float64, torch.float64, torch.float64)
        ]

    def test_one_dtype_leaves_vae_and_wav2vec2_in_float32(self, saved, portrait):
        pipe = FantasyTalkingPipeline.from_pretrained(saved, dtype=torch.bfloat16, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        assert pipe.transformer.dtype == pipe.text_encoder.dtype == pipe.image_encoder.dtype == torch.bfloat16
        assert pipe.vae.dtype == pipe.audio_encoder.dtype == torch.float32
        assert latents(pipe, portrait).isfinite().all()

    def test_devices_and_memory(self, pipe, saved, portrait):
        """With a device map, loading decides where the weights are."""
        again = FantasyTalkingPipeline.from_pretrained(saved, device_map="cpu", low_cpu_mem_usage=True)
        again.set_progress_bar_config(disable=True)
        assert torch.equal(latents(again, portrait), latents(pipe, portrait)) and again.hf_device_map == "cpu"

    @pytest.mark.parametrize(
        ("options", "code", "field"),
        [
            ({"torch_dtpye": torch.float16}, ErrorCode.unknown_key, "torch_dtpye"),
            ({"custom_pipeline": "mine"}, ErrorCode.unknown_key, "custom_pipeline"),
            ({"torch_dtype": "float16"}, ErrorCode.invalid_type, "torch_dtype"),
            ({"dtype": {"transfromer": torch.float16}}, ErrorCode.unknown_key, "dtype"),
            ({"dtype": {"vae": "auto"}}, ErrorCode.invalid_type, "dtype"),
            ({"dtype": torch.float16, "torch_dtype": torch.float32}, ErrorCode.conflict, "torch_dtype"),
            ({"device_map": "balanced"}, ErrorCode.invalid_choice, "device_map"),
            ({"low_cpu_mem_usage": False}, ErrorCode.unsupported, "low_cpu_mem_usage"),
            ({"use_safetensors": False}, ErrorCode.unsupported, "use_safetensors"),
            ({"quantization_config": {"load_in_8bit": True}}, ErrorCode.invalid_type, "quantization_config"),
        ],
    )
    def test_wrong_arguments_are_refused_before_anything_is_loaded(self, tmp_path, options, code, field):
        """The folder is empty, which is only noticed where loading begins."""
        with raises_input_error(code, field) as error:
            FantasyTalkingPipeline.from_pretrained(tmp_path, **options)
        assert "\n" not in str(error.value)

    def test_a_revision_is_not_taken_from_a_local_copy(self, tmp_path, monkeypatch):
        """checkpoints/NAME holds some revision of the hub id, nobody knows which."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        (tmp_path / "checkpoints" / "talker").mkdir(parents=True)
        options = {"cache_dir": tmp_path / "cache", "token": False}
        with raises_input_error(ErrorCode.missing_weights, "pipeline", "somebody/talker"):
            FantasyTalkingPipeline.from_pretrained("somebody/talker", revision="main", **options)
        with raises_input_error(ErrorCode.conflict, "adapter"):  # the folder itself, which is no pipeline
            FantasyTalkingPipeline.from_pretrained("somebody/talker", **options)

    def test_a_cache_folder(self, saved, tmp_path):
        snapshot = tmp_path / "models--somebody--talker" / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(saved, target_is_directory=True)
        (tmp_path / "models--somebody--talker" / "refs").mkdir()
        (tmp_path / "models--somebody--talker" / "refs" / "main").write_text("abc")
        again = FantasyTalkingPipeline.from_pretrained("somebody/talker", cache_dir=tmp_path, local_files_only=True)
        assert again.config._name_or_path == "somebody/talker"

    def test_variants(self, pipe, saved, tmp_path, portrait):
        pipe.save_pretrained(tmp_path / "half", variant="fp16")
        again = FantasyTalkingPipeline.from_pretrained(tmp_path / "half", variant="fp16")
        again.set_progress_bar_config(disable=True)
        assert torch.equal(latents(again, portrait), latents(pipe, portrait))
        with raises_input_error(ErrorCode.missing_weights, "variant") as error:
            FantasyTalkingPipeline.from_pretrained(tmp_path / "half")
        assert "variant='fp16'" in str(error.value)
        with raises_input_error(ErrorCode.missing_weights, "variant", "fp16"):
            FantasyTalkingPipeline.from_pretrained(saved, variant="fp16")

    def test_pickled_weights_are_not_written(self, pipe, tmp_path):
        for saving in (
            pipe.save_pretrained,
            pipe.transformer.save_pretrained,
            FantasyTalkingPipeline.save_lora_weights,
        ):
            with raises_input_error(ErrorCode.unsupported, "safe_serialization", False):
                saving(tmp_path / "pickled", safe_serialization=False)
        assert not (tmp_path / "pickled").exists()
        (tmp_path / "file").touch()
        with raises_input_error(ErrorCode.output_exists, "save_directory"):
            pipe.save_pretrained(tmp_path / "file")


class TestComponents:
    def test_the_encoders_are_components(self, driven, tmp_path):
        assert driven.motion_normalizer == MotionNormalizer(1e-4, 1e-2, 1e-3, 0.1)
        driven.save_pretrained(tmp_path)
        others = {
            "from_pipe": FantasyTalkingPipeline.from_pipe(driven),
            "components": FantasyTalkingPipeline(**driven.components),
        }
        for name, other in others.items():
            assert {part: getattr(other, part) for part in ENCODERS} == {
                part: driven.components[part] for part in ENCODERS
            }, name
        again = FantasyTalkingPipeline.from_pretrained(tmp_path)
        assert again.face_encoder_path == tmp_path / "face_encoder" / driven.face_encoder_path.name
        assert again.expression_encoder_path == tmp_path / "expression_encoder"
        assert again.motion_normalizer == driven.motion_normalizer
        again.face_encoder_path = None
        assert again.components["face_encoder"] is None and not again.facts.has_face_encoder
        with raises_input_error(ErrorCode.missing_file):
            again.face_encoder_path = tmp_path / "gone.onnx"

    def test_optional_components_stay_absent(self, pipe, tmp_path, portrait):
        bare = FantasyTalkingPipeline.from_pipe(pipe, **dict.fromkeys(ENCODERS))
        bare.set_progress_bar_config(disable=True)
        bare.save_pretrained(tmp_path)
        again = FantasyTalkingPipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        assert {name for name, part in again.components.items() if part is None} == {"transformer_2", *ENCODERS}
        given = {"face_scale": 0.0}
        assert torch.equal(latents(again, portrait, **given), latents(bare, portrait, **given))

    def test_clip_is_optional_only_where_the_base_does_not_read_it(self, pipe, portrait):
        """Refused before anything is encoded."""
        without = FantasyTalkingPipeline.from_pipe(pipe, image_encoder=None, text_encoder=None)
        with raises_input_error(ErrorCode.missing_value, "image_encoder"):
            latents(without, portrait, face_scale=0.0)

    def test_they_are_written_before_the_upload(self, driven, tmp_path, monkeypatch):
        uploaded = []
        monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", lambda name, **_: _Repository(name))
        monkeypatch.setattr(
            FantasyTalkingPipeline,
            "_upload_folder",
            lambda self, folder, *_, **__: uploaded.extend(
                str(path.relative_to(folder)) for path in Path(folder).rglob("*.*")
            ),
        )
        monkeypatch.setattr("diffusers.pipelines.pipeline_utils.load_or_create_model_card", lambda *_, **__: _Card())
        monkeypatch.setattr("diffusers.pipelines.pipeline_utils.populate_model_card", lambda card: card)
        driven.save_pretrained(tmp_path / "talker", push_to_hub=True)
        face = f"face_encoder/{driven.face_encoder_path.name}"
        assert {face, "expression_encoder/model.safetensors", "motion_normaliser.json", "model_index.json"} <= {
            *uploaded
        }

    def test_a_pipeline_class_of_one_s_own(self, driven, tmp_path, portrait):
        """diffusers itself loads the components, by the modules that model_index.json names."""
        driven.save_pretrained(tmp_path / "saved")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "pipeline.py").write_text(
            "from fantasytalking import pipeline\n\n\nclass MyPipeline(pipeline.FantasyTalkingPipeline):\n    pass\n"
        )
        mine = DiffusionPipeline.from_pretrained(
            tmp_path / "saved", custom_pipeline=str(tmp_path / "mine"), trust_remote_code=True
        )
        mine.set_progress_bar_config(disable=True)
        assert type(mine).__name__ == "MyPipeline" and isinstance(mine, FantasyTalkingPipeline)
        assert isinstance(mine.transformer, FantasyTalkingTransformer3DModel)
        assert mine.motion_normalizer == driven.motion_normalizer and mine.facts == driven.facts
        torch.testing.assert_close(latents(mine, portrait), latents(driven, portrait), atol=1e-5, rtol=1e-5)


class _Card:
    def save(self, path: str) -> None:
        Path(path).write_text("---\n---\n")


class _Repository:
    def __init__(self, name: str) -> None:
        self.repo_id = name


class TestCall:
    def test_what_a_callback_sees_and_may_return(self, pipe, portrait):
        seen = []

        def watch(pipeline, step, timestep, tensors):
            assert pipeline.current_timestep == timestep and pipeline.num_timesteps == 3
            seen.append((step, pipeline.guidance_scale, sorted(tensors)))

        made = latents(
            pipe,
            portrait,
            num_inference_steps=3,
            text_guidance_scale=4.0,
            callback_on_step_end=watch,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
        assert seen == [(step, 4.0, ["latents", "prompt_embeds"]) for step in range(3)]
        assert torch.equal(made, latents(pipe, portrait, num_inference_steps=3, text_guidance_scale=4.0))
        assert pipe.current_timestep is None and pipe.num_timesteps == 3

    def test_a_callback_replaces_latents_and_interrupts(self, pipe, portrait):
        steps = []

        def stop(pipeline, step, timestep, tensors):
            steps.append(step)
            pipeline._interrupt = True
            return {"latents": torch.zeros_like(tensors["latents"])}

        assert not latents(pipe, portrait, num_inference_steps=3, callback_on_step_end=stop).any()
        assert steps == [0] and pipe.interrupt

    def test_a_callback_replaces_the_prompt(self, pipe, portrait):
        first, second = (pipe.encode_prompt(prompt)[0] for prompt in ("hello", "goodbye"))

        def change(pipeline, step, timestep, tensors):
            return {"prompt_embeds": second}

        options = {"num_inference_steps": 2, "prompt": "hello", "text_guidance_scale": 4.0}
        changed = latents(
            pipe,
            portrait,
            **options,
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
        assert (changed - latents(pipe, portrait, **options)).abs().max() > 1e-4
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("several", [False, True])
    def test_diffusers_cut_off_callback_ends_guidance(self, pipe, portrait, several):
        """As a schedule that stops there, of every condition."""
        cut_off = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
        options = {"num_inference_steps": 4, "prompt": "hello"}
        made = latents(
            pipe,
            portrait,
            **options,
            text_guidance_scale=4.0,
            audio_guidance_scale=3.0,
            callback_on_step_end=MultiPipelineCallbacks([cut_off]) if several else cut_off,
        )
        schedules = {
            "text_guidance_scale": GuidanceSchedule(4.0, 4.0, 0.5),
            "audio_guidance_scale": GuidanceSchedule(3.0, 3.0, 0.5),
        }
        assert torch.equal(made, latents(pipe, portrait, **options, **schedules))

    def test_a_callback_raises_the_text_guidance(self, pipe, portrait):
        def strengthen(pipeline, step, timestep, tensors):
            pipeline._guidance_scale += 1.0

        options = {"prompt": "hello", "num_inference_steps": 2}
        made = latents(pipe, portrait, **options, text_guidance_scale=2.0, callback_on_step_end=strengthen)
        assert pipe.guidance_scale == 4.0
        assert torch.equal(made, latents(pipe, portrait, **options, text_guidance_scale=GuidanceSchedule(2.0, 3.0)))

    def test_noise_and_prompts_that_are_ready(self, pipe, portrait):
        whole = latents(pipe, portrait, prompt="hello", negative_prompt="still")
        prompt, negative = pipe.encode_prompt("hello", "still")
        assert prompt.shape == negative.shape == (1, pipe.config.text_length, pipe.transformer.config.text_dim)
        noise = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
        ready = {"prompt_embeds": prompt, "negative_prompt_embeds": negative, "latents": noise}
        silent = FantasyTalkingPipeline(
            **{**pipe.components, "text_encoder": None, "tokenizer": None}, **settings(pipe)
        )
        silent.set_progress_bar_config(disable=True)
        assert torch.equal(latents(silent, portrait, prompt=None, negative_prompt=None, **ready), whole)
        same, also = pipe.encode_prompt("", None)
        assert same is also and not same.any()

    def test_a_tuple_in_place_of_the_output(self, pipe, portrait):
        (frames,) = generate(pipe, portrait, return_dict=False)
        assert torch.equal(frames, generate(pipe, portrait)[0])

    @pytest.mark.parametrize(
        ("options", "code", "field"),
        [
            ({"prompt": ["one", "two"]}, ErrorCode.invalid_type, "prompt"),
            ({"negative_prompt": ["one"]}, ErrorCode.invalid_type, "negative_prompt"),
            ({"generator": [torch.Generator(), torch.Generator()]}, ErrorCode.invalid_type, "generator"),
            ({"latents": torch.zeros(1, 16, 3, 5, 4)}, ErrorCode.shape_mismatch, "latents"),
            ({"prompt_embeds": torch.zeros(1, 3, 4)}, ErrorCode.shape_mismatch, "prompt_embeds"),
            ({"prompt": "hi", "prompt_embeds": torch.zeros(1, 12, 32)}, ErrorCode.conflict, "prompt_embeds"),
            ({"attention_kwargs": {"gligen": 1}}, ErrorCode.unknown_key, "attention_kwargs"),
            (
                {"callback_on_step_end_tensor_inputs": ["image_latents"]},
                ErrorCode.invalid_choice,
                "callback_on_step_end_tensor_inputs",
            ),
            ({"callback_on_step_end": lambda *_: {"noise": 1}}, ErrorCode.invalid_type, "callback_on_step_end"),
            (
                {"callback_on_step_end": lambda *_: {"latents": torch.zeros(2)}},
                ErrorCode.invalid_type,
                "callback_on_step_end",
            ),
        ],
    )
    def test_wrong_arguments_are_refused(self, pipe, portrait, options, code, field):
        with raises_input_error(code, field) as error:
            generate(pipe, portrait, **options)
        assert "\n" not in str(error.value)

    def test_no_deprecated_access(self, pipe, portrait, tmp_path, recwarn):
        pipe.save_pretrained(tmp_path)
        again = FantasyTalkingPipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        latents(again, portrait)
        assert not [warning for warning in recwarn if "config attribute" in str(warning.message)]


def settings(pipe: FantasyTalkingPipeline) -> dict[str, object]:
    names = ("trained_modules", "audio_window", "window_seconds", "text_length")
    return {name: pipe.config[name] for name in names}


class TestStepCaches:
    @pytest.mark.parametrize("config", ["pyramid", "faster"])
    def test_contexts_do_not_share_features(self, config):
        """Two contexts called in turn predict what each predicts alone."""
        inputs = {"a": (tiny_latents(1)[0], tiny_conditions(1)), "b": (tiny_latents(1, seed=5)[0], tiny_conditions(1))}
        together = predictions(config, inputs)
        for name in inputs:
            alone = predictions(config, {name: inputs[name]})
            assert all(map(torch.equal, alone[name], together[name])), name
        plain = predictions(None, inputs)
        assert not torch.equal(plain["a"][1], together["a"][1]), "features are reused"

    @pytest.mark.parametrize("config", ["pyramid", "faster"])
    def test_a_video_of_several_windows(self, pipe, portrait, config):
        other = FantasyTalkingPipeline(
            **{**pipe.components, "transformer": copy.deepcopy(pipe.transformer)}, **settings(pipe)
        )
        other.set_progress_bar_config(disable=True)
        other.transformer.enable_cache(step_cache(config, lambda: other.current_timestep))
        options = {"seconds": 1.0, "prompt": "hello", "num_inference_steps": 4}
        made = latents(other, portrait, **options)
        assert made.isfinite().all() and torch.equal(made, latents(other, portrait, **options)), "the state is reset"
        other.transformer.disable_cache()
        torch.testing.assert_close(latents(other, portrait, **options), latents(pipe, portrait, **options))

    def test_a_branch_that_joins_late(self, pipe, portrait):
        """FasterCache has nothing to reuse for it yet."""
        other = FantasyTalkingPipeline(
            **{**pipe.components, "transformer": copy.deepcopy(pipe.transformer)}, **settings(pipe)
        )
        other.set_progress_bar_config(disable=True)
        other.transformer.enable_cache(step_cache("faster", lambda: other.current_timestep))

        def join(pipeline, step, timestep, tensors):
            pipeline._guidance_scale = 4.0 if step >= 1 else 1.0

        options = {"prompt": "hello", "num_inference_steps": 6, "text_guidance_scale": 1.0}
        assert latents(other, portrait, callback_on_step_end=join, **options).isfinite().all()

    def test_faster_cache_needs_one_sample_per_call(self):
        model = tiny_transformer()
        with raises_input_error(ErrorCode.unsupported, "is_guidance_distilled", False):
            model.enable_cache(FasterCacheConfig(current_timestep_callback=lambda: 0))
        assert not model.is_cache_enabled


def step_cache(kind: str, current_timestep):
    if kind == "pyramid":
        return PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 900),
            spatial_attention_block_identifiers=["blocks.*attn1"],
            current_timestep_callback=current_timestep,
        )
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 900),
        spatial_attention_block_identifiers=["blocks.*attn1"],
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=current_timestep,
        is_guidance_distilled=True,
    )


def predictions(kind: str | None, inputs: dict) -> dict[str, list[torch.Tensor]]:
    """Three steps of each context, in turn."""
    model, now = tiny_transformer(), [1000.0]
    if kind is not None:
        model.enable_cache(step_cache(kind, lambda: now[0]))
    made: dict[str, list[torch.Tensor]] = {name: [] for name in inputs}
    for timestep in (1000.0, 600.0, 300.0):
        now[0] = timestep
        for name, (noisy, conditions) in inputs.items():
            with torch.no_grad(), model.cache_context(name):
                noisy = noisy * (timestep / 1000)
                made[name].append(model(noisy, torch.tensor([timestep]), conditions, return_dict=False)[0])
    return made


class TestTransformer:
    def test_what_contains_the_base_alone_names_the_function_that_builds_on_it(self, base, tmp_path):
        with raises_input_error(ErrorCode.invalid_choice, "_class_name", "WanTransformer3DModel") as error:
            FantasyTalkingTransformer3DModel.from_pretrained(base, subfolder="transformer")
        assert "load_from_wan" in str(error.value)
        for source in (base / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / "wan.gguf", {}):
            with raises_input_error(ErrorCode.unsupported, "from_single_file") as error:
                FantasyTalkingTransformer3DModel.from_single_file(source)
            assert "load_from_wan" in str(error.value) and "\n" not in str(error.value)

    def test_a_folder_that_lacks_weights_is_refused(self, tmp_path):
        tiny_transformer().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 4}))
        with raises_input_error(ErrorCode.shape_mismatch, "transformer"):
            FantasyTalkingTransformer3DModel.from_pretrained(tmp_path)

    def test_no_layer_that_quantization_finds_has_a_single_input(self):
        linear = [layer for layer in tiny_transformer().modules() if isinstance(layer, torch.nn.Linear)]
        assert len(linear) > 30 and min(layer.in_features for layer in linear) > 1


@pytest.mark.parametrize("bits", ["int8", "float8"])
def test_quantization_of_the_pipeline(saved, tmp_path, portrait, bits):
    quantization = pytest.importorskip("torchao.quantization")
    from diffusers import PipelineQuantizationConfig, TorchAoConfig

    kind = {"int8": quantization.Int8WeightOnlyConfig, "float8": quantization.Float8WeightOnlyConfig}[bits]()
    config = PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(kind)})
    pipe = FantasyTalkingPipeline.from_pretrained(saved, dtype=torch.bfloat16, quantization_config=config)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.transformer.blocks[0].attn1.to_q.weight.data) is not torch.Tensor
    assert all(type(value.data) is torch.Tensor for value in pipe.transformer.motion_embedder.parameters())
    made = latents(pipe, portrait)
    pipe.save_pretrained(tmp_path)
    again = FantasyTalkingPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    again.set_progress_bar_config(disable=True)
    assert made.isfinite().all() and torch.equal(latents(again, portrait), made)


def test_a_quantization_that_an_adapter_excludes(saved, fast):
    pytest.importorskip("torchao")
    from diffusers import PipelineQuantizationConfig, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    config = PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(Int8WeightOnlyConfig())})
    with pytest.raises(InputError) as error:
        FantasyTalkingPipeline.from_pretrained(saved, adapter=fast, quantization_config=config)
    assert error.value.field == "quantization_config"


@pytest.mark.slow
def test_the_transformer_compiles_with_symbolic_sizes_and_is_exported(tmp_path):
    model = tiny_transformer(num_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        for frames, size in ((5, 8), (3, 12)):
            inputs = (*tiny_latents(1, frames, size=size), tiny_conditions(1, frames, size=size))
            assert torch.equal(compiled(*inputs, return_dict=False)[0], model(*inputs, return_dict=False)[0])
        program = torch.export.export(model, inputs, kwargs={"return_dict": False})
        torch.export.save(program, tmp_path / "model.pt2")
        again = torch.export.load(tmp_path / "model.pt2").module()
        torch.testing.assert_close(again(*inputs, return_dict=False)[0], model(*inputs, return_dict=False)[0])
