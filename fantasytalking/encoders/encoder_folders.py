"""Finds the face and expression encoders that lie in the folders of models and adapters."""

from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.fantasy_portrait.pd_fgc import contains_pd_fgc

FACE_ENCODER_FOLDER = "face_encoder"
"""Folder of the ArcFace .onnx in a components folder and in a saved pipeline."""
EXPRESSION_ENCODER_FOLDER = "expression_encoder"
"""Folder of the expression encoder in a saved pipeline or next to an adapter's weights."""


def find_face_encoder(folder: Path) -> Path | None:
    """Returns the ArcFace network of a components folder or a saved pipeline; None where it has none.

    Raises:
        InputError: there are several.
    """
    return only_onnx_file(folder / FACE_ENCODER_FOLDER)


def only_onnx_file(folder: Path) -> Path | None:
    """Returns the .onnx file in `folder`; None where it has none.

    Raises:
        InputError: there are several.
    """
    found = sorted(folder.glob("*.onnx"))
    if len(found) > 1:
        raise InputError(
            f"'{folder}' holds {len(found)} .onnx files; leave one",
            code=ErrorCode.conflict,
            field="face_encoder",
            value=len(found),
        )
    return found[0] if found else None


def find_expression_encoder(*sources: str | Path | None) -> Path | None:
    """Returns the first expression encoder in one of the folders or files; None where none of them has one."""
    for source in (Path(source) for source in sources if source is not None):
        if source.is_file() and contains_pd_fgc(source):
            return source
        folder = source / EXPRESSION_ENCODER_FOLDER
        if folder.is_dir():
            return folder
    return None
