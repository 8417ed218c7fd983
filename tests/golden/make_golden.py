"""Makes the golden forwards from the authors' own code.

    git clone https://github.com/Fantasy-AMAP/fantasy-talking
    git -C fantasy-talking checkout 8c2d0c9ce2441eb02b5cf1c10d23dbab5ce06677
    python -m tests.golden.make_golden --repository fantasy-talking

and the same with fantasy-portrait at 4df229cab407248720c2e519adfcce937be44008. The first writes audio.safetensors, the
second portrait.safetensors. torch, numpy, einops, pillow, safetensors and tqdm are needed, and no GPU.

The authors' classes are imported from the checkout and run in float32 on the CPU. Four things are changed around them:

1. `flash_attention`, which insists on a GPU and bfloat16, is replaced by `exact_attention`; the authors' `attention`,
   which calls it unless it has a mask, is set to compute in float32.
2. "cuda", which the code for several people names as its device, is read as "cpu".
3. Packages that the files import and a forward does not use are placeholders that raise when they are called.
4. For several people, detected faces and encoded driving videos are given, in place of the networks that find them.

Weights are those of `cases.weights`, loaded by the authors' own loaders from a file in the released layout, on models
of the sizes in `cases`.
"""

import argparse
import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tests.golden import cases

REPOSITORIES = {
    "fantasy-talking": "8c2d0c9ce2441eb02b5cf1c10d23dbab5ce06677",
    "fantasy-portrait": "4df229cab407248720c2e519adfcce937be44008",
}
"""The commits at which the goldens are made."""
# fmt: off
UNUSED = (
    "cv2", "diffusers", "ftfy", "huggingface_hub", "imageio", "librosa", "modelscope", "moviepy", "onnx", "onnxruntime",
    "pandas", "regex", "scipy", "torchvision", "transformers",
)
# fmt: on
"""Packages that the authors' files import and that no forward needs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True, help="checkout of the authors' repository")
    parser.add_argument("--output", type=Path, default=cases.FOLDER, help="folder to write (default: tests/golden)")
    arguments = parser.parse_args()
    repository = arguments.repository.resolve()
    try:
        commit = checked_commit(repository)
    except ValueError as error:
        parser.error(str(error))
    name = next(name for name, wanted in REPOSITORIES.items() if wanted == commit)
    sys.path.insert(0, str(repository))
    make, file = (audio_golden, "audio") if name == "fantasy-talking" else (portrait_golden, "portrait")
    with torch.no_grad():
        outputs, shapes = make()
    facts = {
        "repository": f"https://github.com/Fantasy-AMAP/{name}",
        "commit": commit,
        "torch": torch.__version__,
        "shapes": shapes,
    }
    path = arguments.output / f"{file}.safetensors"
    save_file({key: value.contiguous() for key, value in outputs.items()}, path, {cases.METADATA: json.dumps(facts)})
    sys.stdout.write(f"wrote {', '.join(outputs)} to '{path}', {path.stat().st_size} bytes\n")


def checked_commit(repository: Path) -> str:
    """The commit of a checkout whose Python files are as committed.

    Raises:
        ValueError: no checkout, another commit than those in `REPOSITORIES`, or a changed file.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise ValueError(f"'{repository}' is not a git checkout: {run.stderr.strip()}")
        return run.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit not in REPOSITORIES.values():
        wanted = " or ".join(f"{name} at {wanted}" for name, wanted in REPOSITORIES.items())
        raise ValueError(f"'{repository}' is at {commit}; {wanted} is needed")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    if changed:
        raise ValueError(f"'{repository}' has changed files ({changed.splitlines()[0]}); check the commit out again")
    return commit


Golden = tuple[dict[str, Tensor], dict[str, dict[str, Sequence[int]]]]
"""Outputs by name, and the shapes of the weights under `wan` and `released`."""


def audio_golden() -> Golden:
    """Runs the released FantasyTalking model per latent frame, on the whole clip, and without audio."""
    with placeholders():
        wan, module = importlib.import_module("diffsynth.models.wan_video_dit"), importlib.import_module("model")
    replace_attention(wan, module)
    dit = wan.WanModel(**cases.WAN).eval()
    adapter = module.FantasyTalkingAudioConditionModel(dit, cases.AUDIO_DIM, cases.AUDIO_TOKEN_DIM)
    parts = {"proj_model": adapter.proj_model, "audio_processor": processors(dit)}
    shapes = load(dit, parts, adapter.load_audio_processor)

    projected = adapter.get_proj_fea(cases.audio_features())
    ranges = adapter.split_audio_sequence(projected.size(1), num_frames=cases.NUM_FRAMES)
    windows, lengths = adapter.split_tensor_with_padding(projected, ranges, expand_length=4)
    run = functools.partial(forward, dit, cases.base_inputs(cases.AUDIO_SIZE))
    framewise = {"audio_proj": windows, "audio_context_lens": lengths}
    return {
        "frame": run(**framewise, audio_scale=cases.AUDIO_SCALES["frame"]),
        "clip": run(audio_proj=projected, audio_context_lens=None, audio_scale=cases.AUDIO_SCALES["clip"]),
        "silent": run(**framewise, audio_scale=0.0),
        "windows": windows,
        "window_lengths": lengths,
    }, shapes


def portrait_golden() -> Golden:
    """Runs the released FantasyPortrait model driven by one person, by two people, and undriven."""
    with placeholders():
        wan = importlib.import_module("diffsynth.models.wan_video_dit")
        module = importlib.import_module("diffsynth.pipelines.wan_video")
        several = importlib.import_module("infer_multi")
    replace_attention(wan, module)
    dit = wan.WanModel(**cases.WAN).eval()
    released = module.Resampler
    module.Resampler = lambda **sizes: released(**{**sizes, **cases.RESAMPLER})
    adapter = module.PortraitAdapter(dit, 768, 2048)
    parts = {name: getattr(adapter, name) for name in ("proj_model", "mouth_proj_model", "emo_proj_model")}
    shapes = load(dit, {**parts, "ip_adapter": processors(dit)}, adapter.load_portrait_adapter)

    run = functools.partial(forward, dit, cases.base_inputs(cases.PORTRAIT_SIZE))
    tokens = adapter.get_adapter_proj(cases.expression_features()[:1])
    ranges = adapter.split_audio_adapter_sequence(tokens.size(1), num_frames=cases.NUM_FRAMES)
    windows, lengths = adapter.split_tensor_with_padding(tokens, ranges, expand_length=0)
    single = {"adapter_proj": windows, "adapter_context_lens": lengths}
    pair, mask, boxes = two_people(several, adapter)
    return {
        "single": run(**single, ip_scale=cases.PORTRAIT_SCALES["single"]),
        "two": run(adapter_proj=pair, adapter_attn_mask=mask, ip_scale=cases.PORTRAIT_SCALES["two"]),
        "undriven": run(**single, ip_scale=0.0),
        "boxes": torch.tensor(boxes),
    }, shapes


def two_people(module: ModuleType, adapter: nn.Module) -> tuple[Tensor, Tensor, list[list[int]]]:
    """The authors' preparation of two people, given what their face detector and expression encoder would find."""
    features = dict(enumerate(cases.expression_features()))

    def encoded(video: int, *_: Any) -> tuple[Any, ...]:
        return None, features[video], 25, cases.NUM_FRAMES, cases.DRIVING_FACES[video], []

    detector = SimpleNamespace(detect=lambda _: ([list(face) for face in cases.FACES], None, None))
    aligner = SimpleNamespace(face_alignment_module=SimpleNamespace(face_detector=detector))
    height, width = cases.PICTURE
    module.get_emo_feature = encoded
    with CudaIsCpu():
        made = module.process_multi_video(adapter, aligner, None, Image.new("RGB", (width, height)), [0, 1])
    return made[0], made[1], made[2]


def forward(dit: nn.Module, inputs: Mapping[str, Tensor], **conditions: Any) -> Tensor:
    """One prediction, called as the authors' pipelines do."""
    latents = inputs["latents"]
    return dit(
        latents,
        timestep=inputs["timestep"],
        context=inputs["text_embeds"],
        clip_fea=inputs["image_embeds"],
        y=inputs["image_condition"],
        seq_len=latents[0, 0].numel() // 4,
        latents_num_frames=latents.shape[2],
        **conditions,
    )


def processors(dit: nn.Module) -> dict[str, Tensor]:
    """The released adapter's tensors within the base, by their names in the base."""
    return {name: value for name, value in dit.state_dict().items() if ".processor." in name}


def load(
    dit: nn.Module, parts: Mapping[str, nn.Module | dict[str, Tensor]], loader: Callable[[str, nn.Module], None]
) -> dict[str, dict[str, Sequence[int]]]:
    """Sets every weight: the base's, then the adapter's `parts` by the authors' `loader` from a file of those parts.

    Returns:
        The shapes of the base's weights under `wan`, and of the parts' under `released` with the part as prefix.
    """
    states = {part: value.state_dict() if isinstance(value, nn.Module) else value for part, value in parts.items()}
    inner = processors(dit)
    shapes = {
        "wan": {name: tuple(value.shape) for name, value in dit.state_dict().items() if name not in inner},
        "released": {
            f"{part}.{name}": tuple(value.shape) for part, state in states.items() for name, value in state.items()
        },
    }
    released = cases.weights(shapes["released"])
    dit.load_state_dict({**cases.weights(shapes["wan"]), **inner}, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "released.ckpt"
        torch.save({part: {name: released[f"{part}.{name}"] for name in state} for part, state in states.items()}, file)
        loader(str(file), dit)
    for part, state in states.items():  # of the same memory as the models
        for name, value in state.items():
            assert torch.equal(value, released[f"{part}.{name}"]), f"{part}.{name} was not loaded"
    return shapes


def exact_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lens: None = None,
    k_lens: Tensor | None = None,
    dropout_p: float = 0.0,
    softmax_scale: None = None,
    q_scale: None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    deterministic: bool = False,
    dtype: torch.dtype | None = None,
    version: None = None,
) -> Tensor:
    """What FlashAttention computes for the authors' `flash_attention`: each query attends to the first `k_lens` keys.

    Args:
        q, k, v: (B, L, heads, head_dim) float32.
        k_lens: (B,), all keys if None. The other arguments are the authors', at their defaults.
    """
    assert q_lens is None and softmax_scale is None and q_scale is None and not causal and not dropout_p
    assert tuple(window_size) == (-1, -1) and q.dtype == k.dtype == v.dtype == torch.float32
    mask = None if k_lens is None else (torch.arange(k.shape[1]) < k_lens[:, None])[:, None, None]
    return F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), mask).transpose(1, 2)


def replace_attention(wan: ModuleType, module: ModuleType) -> None:
    """Puts `exact_attention` where both modules have `flash_attention`; `attention` stays the authors' own."""
    wan.FLASH_ATTN_2_AVAILABLE = True
    wan.flash_attention = module.flash_attention = exact_attention
    module.attention = functools.partial(wan.attention, dtype=torch.float32)


class CudaIsCpu(TorchFunctionMode):
    """Reads the device "cuda" as "cpu"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(value: Any) -> Any:
            return "cpu" if isinstance(value, str) and value == "cuda" else value

        return func(*map(moved, args), **{name: moved(value) for name, value in (kwargs or {}).items()})


class Placeholder(ModuleType):
    """A module whose every name is a class that cannot be used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{self.__name__}.{name} is a placeholder; the forward was not expected to use it")

        return type(name, (), {"__init__": refuse})


class PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a placeholder for each of `UNUSED` and for what lies within."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = fullname.split(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the placeholder empty."""


@contextmanager
def placeholders() -> Iterator[None]:
    """Within it, imports of `UNUSED` give placeholders, whether the packages are installed or not."""
    finder = PlaceholderFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


if __name__ == "__main__":
    main()
