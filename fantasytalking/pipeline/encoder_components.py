"""Components of a pipeline that are not torch modules: face encoder, expression encoder, constants of motion.

They are registered like the others, so that diffusers saves, uploads, loads and passes them on. It recognizes a
component by its base class, here transformers' `FeatureExtractionMixin`, which must be a name of this module. Saved
pipelines state this module's path in their model_index.json.
"""

import shutil
from dataclasses import astuple
from pathlib import Path
from typing import Any

from transformers import FeatureExtractionMixin

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.encoders.encoder_folders import only_onnx_file
from fantasytalking.encoders.expression import copy_expression_encoder
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer


class _StoredEncoder(FeatureExtractionMixin):
    """An encoder that is read from its files where it is needed; equal encoders have the same files."""

    path: Path

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


class FaceEncoderFile(_StoredEncoder):
    """The ArcFace network of a pipeline.

    Args:
        path: the .onnx file.

    Raises:
        InputError: the file does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing_file(path, "face encoder")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> "FaceEncoderFile":
        """Finds the only .onnx file in `folder`.

        Raises:
            InputError: there is none, or several.
        """
        found = only_onnx_file(Path(folder))
        if found is None:
            raise InputError(
                f"face encoder: '{folder}' contains no .onnx file; get the folder again",
                code=ErrorCode.missing_weights,
                field="face_encoder",
                value=str(folder),
            )
        return cls(found)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Copies the file to `folder`, completely or not at all."""
        with atomic_write(Path(folder) / self.path.name) as temporary:
            shutil.copyfile(self.path, temporary)


class ExpressionEncoderFolder(_StoredEncoder):
    """The encoder of driving videos of a pipeline.

    Args:
        path: its folder, or the file of the released encoder.

    Raises:
        InputError: it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(
                f"expression encoder '{path}' does not exist; give its folder",
                code=ErrorCode.missing_weights,
                field="expression_encoder",
                value=str(path),
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> "ExpressionEncoderFolder":
        """Returns the encoder in `folder`, which is read where a video drives a face."""
        return cls(folder)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Copies the encoder to `folder`, completely or not at all.

        Raises:
            InputError: the encoder cannot be read.
        """
        copy_expression_encoder(self.path, Path(folder))


class PipelineMotionNormalizer(MotionNormalizer, FeatureExtractionMixin):
    """The constants of motion of a pipeline, stored in its root folder; equal to any others of their values."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MotionNormalizer) and astuple(other) == astuple(self)

    def __hash__(self) -> int:
        return hash(astuple(self))

    @classmethod
    def from_constants(cls, constants: MotionNormalizer | None) -> "PipelineMotionNormalizer | None":
        """Returns the same constants as a component; None where there are none."""
        return None if constants is None else cls(*astuple(constants))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> "PipelineMotionNormalizer":
        """Reads the constants of the pipeline in `folder`.

        Raises:
            InputError: as `MotionNormalizer.load`.
        """
        return cls(*astuple(MotionNormalizer.load(Path(folder) / MOTION_NORMALIZER_FILE)))

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Writes the constants beside `folder`, into the folder of the pipeline, where training reads them too."""
        self.save(Path(folder).parent / MOTION_NORMALIZER_FILE)


class EncoderPaths:
    """Paths of a pipeline's encoders that are not torch modules. Setting one registers the component."""

    face_encoder: FaceEncoderFile | None
    expression_encoder: ExpressionEncoderFolder | None

    @property
    def face_encoder_path(self) -> Path | None:
        """The ArcFace .onnx; None: the pipeline has none."""
        return None if self.face_encoder is None else self.face_encoder.path

    @face_encoder_path.setter
    def face_encoder_path(self, path: str | Path | None) -> None:
        self.register_modules(face_encoder=None if path is None else FaceEncoderFile(path))  # type: ignore[attr-defined]

    @property
    def expression_encoder_path(self) -> Path | None:
        """The folder of the encoder of driving videos; None: the pipeline has none."""
        return None if self.expression_encoder is None else self.expression_encoder.path

    @expression_encoder_path.setter
    def expression_encoder_path(self, path: str | Path | None) -> None:
        encoder = None if path is None else ExpressionEncoderFolder(path)
        self.register_modules(expression_encoder=encoder)  # type: ignore[attr-defined]
