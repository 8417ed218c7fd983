"""Weights that metrics need: which file, of which content, under which licence, from where. Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import hash_file


@dataclass(frozen=True)
class MetricWeights:
    """A file (or, without hash and size, a folder) that must lie in the folder of weights."""

    file: str
    """Name within the folder of weights."""
    sha256: str | None
    """None: not known to this project, and not checked."""
    size_bytes: int | None
    license: str
    source: str
    used_by: str

    def describe(self) -> str:
        """One line for the list of skipped metrics."""
        return f"{self.file} (sha256 {self.sha256 or 'not known'}; {self.license}; {self.source})"


INCEPTION_WEIGHTS = MetricWeights(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    None,
    "Apache-2.0",
    "github.com/mseitzer/pytorch-fid, releases, fid_weights",
    "FID",
)
I3D_WEIGHTS = MetricWeights(
    "i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    None,
    "not stated by its authors",
    "github.com/universome/stylegan-v, its FVD detector",
    "FVD",
)
SYNCNET_WEIGHTS = MetricWeights(
    "syncnet_v2.model",
    "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    54_573_114,
    "not stated for the weights (code: MIT)",
    "github.com/joonson/syncnet_python, download_model.sh",
    "Sync-C, Sync-D, offset",
)
ARCFACE_WEIGHTS = MetricWeights(
    "w600k_r50.onnx",
    None,
    None,
    "non-commercial research only",
    "github.com/deepinsight/insightface, model zoo, buffalo_l",
    "CSIM, ES-ArcFace, drift of the identity",
)
NANO_FACE_WEIGHTS = MetricWeights(
    "nano_face.onnx",
    None,
    None,
    "Apache-2.0",
    "fantasytalking build-nano; checkpoints/nano/face_encoder",
    "csim_nano",
)
NANO_READER_WEIGHTS = MetricWeights(
    "expression_reader.safetensors",
    None,
    None,
    "Apache-2.0",
    "fantasytalking build-nano --only expression_reader",
    "expression_truth_nano, leakage_nano",
)
DINO_WEIGHTS = MetricWeights(
    "dino_vitbase16_pretrain.pth",
    None,
    None,
    "Apache-2.0",
    "github.com/facebookresearch/dino, ViT-B/16 backbone only",
    "IDC",
)
RAFT_WEIGHTS = MetricWeights(
    "raft-things.pth", None, None, "BSD-3-Clause", "github.com/princeton-vl/RAFT, download_models.sh", "SD, BD"
)
AESTHETIC_HEAD_WEIGHTS = MetricWeights(
    "sa_0_4_vit_l_14_linear.pth",
    None,
    None,
    "MIT",
    "github.com/LAION-AI/aesthetic-predictor",
    "aesthetic",
)
CLIP_VIT_L_WEIGHTS = MetricWeights(
    "clip-vit-large-patch14",
    None,
    None,
    "MIT",
    "hf download openai/clip-vit-large-patch14 --local-dir WEIGHTS/clip-vit-large-patch14",
    "aesthetic",
)
LPIPS_BACKBONE_WEIGHTS = MetricWeights(
    "alexnet-owt-7be5be79.pth", None, None, "BSD-3-Clause", "torchvision's AlexNet, ImageNet weights", "LPIPS"
)
LPIPS_HEAD_WEIGHTS = MetricWeights(
    "lpips_alex.pth",
    None,
    None,
    "BSD-2-Clause",
    "github.com/richzhang/PerceptualSimilarity, weights/v0.1/alex.pth",
    "LPIPS",
)

KNOWN_WEIGHTS = {
    weights.file: weights
    for weights in (
        INCEPTION_WEIGHTS,
        I3D_WEIGHTS,
        SYNCNET_WEIGHTS,
        ARCFACE_WEIGHTS,
        NANO_FACE_WEIGHTS,
        NANO_READER_WEIGHTS,
        DINO_WEIGHTS,
        RAFT_WEIGHTS,
        AESTHETIC_HEAD_WEIGHTS,
        CLIP_VIT_L_WEIGHTS,
        LPIPS_BACKBONE_WEIGHTS,
        LPIPS_HEAD_WEIGHTS,
    )
}


def locate_metric_weights(weights: MetricWeights, folder: Path | None) -> Path | None:
    """Where the weights are, None where they are not there.

    Raises:
        InputError: something of that name is there, and its size or sha256 is another.
    """
    path = None if folder is None else folder / weights.file
    if path is None or not path.exists():
        return None
    if weights.size_bytes is not None and path.stat().st_size != weights.size_bytes:
        raise InputError(
            f"'{path}' has {path.stat().st_size} bytes and must have {weights.size_bytes}; get it again: "
            f"{weights.source}"
        )
    if weights.sha256 is not None:
        found = hash_file(path)
        if found != weights.sha256:
            raise InputError(
                f"'{path}' has sha256 {found[:12]}... and must have {weights.sha256[:12]}...; get it again: "
                f"{weights.source}"
            )
    return path
