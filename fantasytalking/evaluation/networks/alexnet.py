"""Convolutions of AlexNet for LPIPS, with torchvision's names and weights (Krizhevsky 2014)."""

from pathlib import Path

from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict

ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
_ACTIVATION_LAYERS = (1, 4, 7, 9, 11)


class AlexNetFeatures(nn.Sequential):
    """Maps (B, 3, H, W) normalized images to the five activations after the convolutions; H and W at least 64."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )

    @classmethod
    def from_file(cls, path: Path) -> "AlexNetFeatures":
        """Loads torchvision's file; its classifier is ignored.

        Raises:
            InputError: the tensors of the convolutions do not match this network.
        """
        return load_strict(cls(), path, prefix="features.")

    def activations(self, images: Tensor) -> list[Tensor]:
        """Returns five (B, C, h, w) activations, with C from `ALEXNET_CHANNELS`."""
        activations = []
        for number, layer in enumerate(self):
            images = layer(images)
            if number in _ACTIVATION_LAYERS:
                activations.append(images)
        return activations
