"""Weights of the metrics: file, hash, license and source. Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import hash_file


@dataclass(frozen=True)
class MetricWeights:
    """A file, or a folder without hash and size, in the folder of weights."""

    file: str
    """Path relative to the folder of weights."""
    sha256: str | None
    """Hash of the file, hexadecimal; None = not known, not checked."""
    size_bytes: int | None
    """Size of the file; None = not checked."""
    license: str
    source: str
    """Where to get the file."""
    used_by: str
    """Names of the metrics for messages."""

    def describe(self) -> str:
        """Returns one line for the list of skipped metrics."""
        return f"{self.file} (sha256 {self.sha256 or 'unknown'}; {self.license}; {self.source})"


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
    "CSIM, ES-ArcFace",
)
NANO_FACE_WEIGHTS = MetricWeights(
    "nano_face.onnx",
    None,
    None,
    "Apache-2.0",
    "copy checkpoints/nano/face_encoder/nano.onnx to this name",
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
    """Returns the path of weights in `folder`; None if they are missing.

    Raises:
        InputError: the file has another size or sha256.
    """
    path = None if folder is None else folder / weights.file
    if path is None or not path.exists():
        return None
    if weights.size_bytes is not None and path.stat().st_size != weights.size_bytes:
        raise InputError(
            f"'{path}' has {path.stat().st_size} bytes and must have {weights.size_bytes}; download it again: "
            f"{weights.source}",
            code=ErrorCode.malformed_file,
            field=weights.file,
            value=path.stat().st_size,
        )
    if weights.sha256 is not None:
        found = hash_file(path)
        if found != weights.sha256:
            raise InputError(
                f"'{path}' has sha256 {found[:12]}... and must have {weights.sha256[:12]}...; download it again: "
                f"{weights.source}",
                code=ErrorCode.malformed_file,
                field=weights.file,
                value=found,
            )
    return path
