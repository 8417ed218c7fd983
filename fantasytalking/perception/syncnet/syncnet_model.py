"""SyncNet (Chung and Zisserman, "Out of time", 2016): an audio and a video network with a shared feature space.

Layers and names as in the released weights (github.com/joonson/syncnet_python, syncnet_v2.model).
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict, module_device

SYNCNET_WINDOW_FRAMES, SYNCNET_WINDOW_COLUMNS, SYNCNET_CEPSTRA = 5, 20, 13
"""Frames of a window at 25 per second, MFCC columns at 100 per second, and coefficients per column."""
SYNCNET_SIZE = 224
SYNCNET_DIM = 1024
SYNCNET_BATCH_SIZE = 20
"""Number of windows per batch."""


def _conv_norm_relu(convolution: nn.Module, channels: int) -> list[nn.Module]:
    norm = nn.BatchNorm3d(channels) if isinstance(convolution, nn.Conv3d) else nn.BatchNorm2d(channels)
    return [convolution, norm, nn.ReLU()]


def _audio_layers() -> nn.Sequential:
    return nn.Sequential(
        *_conv_norm_relu(nn.Conv2d(1, 64, 3, padding=1), 64),
        nn.MaxPool2d(1, 1),
        *_conv_norm_relu(nn.Conv2d(64, 192, 3, padding=1), 192),
        nn.MaxPool2d(3, (1, 2)),
        *_conv_norm_relu(nn.Conv2d(192, 384, 3, padding=1), 384),
        *_conv_norm_relu(nn.Conv2d(384, 256, 3, padding=1), 256),
        *_conv_norm_relu(nn.Conv2d(256, 256, 3, padding=1), 256),
        nn.MaxPool2d(3, 2),
        *_conv_norm_relu(nn.Conv2d(256, 512, (5, 4)), 512),
    )


def _video_layers() -> nn.Sequential:
    """Only the first convolution spans time, over one window: a whole video has one column per window."""
    return nn.Sequential(
        *_conv_norm_relu(nn.Conv3d(3, 96, (SYNCNET_WINDOW_FRAMES, 7, 7), (1, 2, 2)), 96),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
        *_conv_norm_relu(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), 256),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        *_conv_norm_relu(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), 256),
        *_conv_norm_relu(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), 256),
        *_conv_norm_relu(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), 256),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
        *_conv_norm_relu(nn.Conv3d(256, 512, (1, 6, 6)), 512),
    )


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, SYNCNET_DIM))


class SyncNet(nn.Module):
    """Features of windows of five frames and of their audio, not normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _audio_layers()
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = _video_layers()

    @classmethod
    def from_file(cls, path: Path) -> "SyncNet":
        """Loads the released weights.

        Raises:
            InputError: the tensors do not match this network.
        """
        return load_strict(cls(), path)

    def encode_audio(self, columns: Tensor) -> Tensor:
        """Returns (N, 1024) features of (N, 13, 20) MFCC windows."""
        features: Tensor = self.netfcaud(self.netcnnaud(rearrange(columns, "n c t -> n 1 c t")).flatten(1))
        return features

    def encode_video(self, frames: Tensor) -> Tensor:
        """Returns (F - 4, 1024) features, one per window, of (F, 224, 224, 3) BGR frames in [0, 255]."""
        hidden = self.netcnnlip(rearrange(frames, "f h w c -> 1 c f h w"))
        features: Tensor = self.netfclip(rearrange(hidden, "1 c f 1 1 -> f c"))
        return features


@torch.no_grad()
def window_features(network: SyncNet, frames: Tensor, cepstra: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the features of the first `count` windows of a clip.

    Window v has the frames v to v + 4 and the columns 4 v to 4 v + 19, which are 0.2 s each.

    Args:
        network: SyncNet.
        frames: (F, 224, 224, 3) BGR in [0, 255], 25 per second; F at least count + 4.
        cepstra: (C, 13), 100 per second; C at least 4 count + 16.
        count: number of windows.

    Returns:
        (count, 1024) video features and (count, 1024) audio features, on the CPU.
    """
    device = module_device(network)
    windows = cepstra.unfold(0, SYNCNET_WINDOW_COLUMNS, 4)[:count]
    starts = range(0, count, SYNCNET_BATCH_SIZE)
    video = [
        network.encode_video(
            frames[v : min(v + SYNCNET_BATCH_SIZE, count) + SYNCNET_WINDOW_FRAMES - 1].to(device).float()
        )
        for v in starts
    ]
    audio = [network.encode_audio(windows[v : v + SYNCNET_BATCH_SIZE].to(device, torch.float32)) for v in starts]
    return torch.cat(video).cpu(), torch.cat(audio).cpu()
