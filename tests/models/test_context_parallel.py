"""Context parallelism: two processes over gloo give the result of one; each projects the audio of its own frames."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from diffusers import ContextParallelConfig

from fantasytalking.conditions import Conditions
from fantasytalking.models.attention_windows import WindowSpan
from fantasytalking.models.kv_cache import ConditionKVCache
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

FIRST_FRAME_REPLACED = {"in_channels": 16, "image_dim": None, "added_kv_proj_dim": None}
"""Changes of the tiny model: each token has a timestep of its own."""


def first_frame_conditions() -> Conditions:
    conditions = tiny_conditions()
    return conditions._replace(image_embeds=None, image_latents=conditions.image_latents[:, :16, :1])


def run_rank(rank: int, port: int, folder: str) -> None:
    """One rank: runs the same model in parallel at clip and frame level and saves outputs and projected shapes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = tiny_transformer()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    projected: list[tuple[int, ...]] = []
    model.audio_projector.register_forward_hook(lambda module, inputs, output: projected.append(tuple(output.shape)))
    latents, timestep = tiny_latents()
    for windows in (1, 5):
        conditions, cache = tiny_conditions(windows=windows), ConditionKVCache()
        projected.clear()
        with torch.no_grad():
            outputs = [model(latents, timestep, conditions, cache=kv_cache).sample for kv_cache in (None, cache, cache)]
        torch.save({"outputs": outputs, "projected": list(projected)}, Path(folder) / f"{windows}-{rank}.pt")
    model = tiny_transformer(**FIRST_FRAME_REPLACED)
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    with torch.no_grad():
        replaced = model(latents, timestep, first_frame_conditions()).sample
    torch.save(replaced, Path(folder) / f"replaced-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_result_of_one(tmp_path):
    """Five latent frames of 16 tokens over two ranks: each rank ends inside a frame."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_fork_server()
    multiprocessing.start_processes(
        run_rank, start_method=FORK_SERVER.get_start_method(), args=(port, str(tmp_path)), nprocs=2
    )
    model = tiny_transformer()
    latents, timestep = tiny_latents()
    for windows in (1, 5):
        with torch.no_grad():
            expected = model(latents, timestep, tiny_conditions(windows=windows)).sample
        for rank in range(2):
            saved = torch.load(tmp_path / f"{windows}-{rank}.pt", weights_only=True)
            for output in saved["outputs"]:
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
            own = 1 if windows == 1 else 3  # frames 0, 1 and half of 2, or the other half and 3, 4
            assert saved["projected"] == [(2, own, 7, 40)] * 2, "once uncached, once for the cache"
    with torch.no_grad():
        expected = tiny_transformer(**FIRST_FRAME_REPLACED)(latents, timestep, first_frame_conditions()).sample
    for rank in range(2):
        found = torch.load(tmp_path / f"replaced-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "count", "span"),
    [
        (0, 40, WindowSpan(0, 3, 0, 8)),
        (40, 40, WindowSpan(2, 3, 8, 0)),
        (16, 16, WindowSpan(1, 1, 0, 0)),
        (20, 4, WindowSpan(1, 1, 4, 8)),
    ],
)
def test_a_span_contains_the_windows_of_its_tokens(first, count, span):
    assert WindowSpan.from_tokens(first, count, 16) == span
