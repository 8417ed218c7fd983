"""AlexNet's convolutions as LPIPS uses them, with torchvision's names and weights (Krizhevsky 2014)."""

from pathlib import Path

from torch import Tensor, nn

from fantasytalking.evaluation.networks.loading import load_strict

ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
_ACTIVATION_LAYERS = (1, 4, 7, 9, 11)


class AlexNetFeatures(nn.Sequential):
    """(B, 3, H, W) normalised pictures to the five activations after the convolutions; H and W at least 64."""

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
        """torchvision's file; its classifier is not looked at.

        Raises:
            InputError: the convolutions are not exactly those of this network.
        """
        return load_strict(cls(), path, prefix="features.")

    def activations(self, images: Tensor) -> list[Tensor]:
        """Five times (B, C, h, w), C from `ALEXNET_CHANNELS`."""
        taken = []
        for number, layer in enumerate(self):
            images = layer(images)
            if number in _ACTIVATION_LAYERS:
                taken.append(images)
        return taken
