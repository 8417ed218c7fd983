"""Draws contact sheets: frames in a grid with landmarks, lip masks, crops and captions."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.face_crop import SquareCrop
from fantasytalking.perception.landmark_measures import interocular_distance

_LANDMARK_COLOR, _LIP_MASK_COLOR, _CROP_COLOR = (90, 220, 130), (255, 80, 90), (255, 200, 60)
_BACKGROUND_COLOR, _TEXT_COLOR = (250, 249, 246), (40, 40, 46)
_GAP = 8


def contact_sheet(
    frames: Sequence[np.ndarray] | np.ndarray,
    *,
    landmarks: Sequence[np.ndarray] | np.ndarray | None = None,
    masks: Sequence[np.ndarray] | np.ndarray | None = None,
    crops: Sequence[SquareCrop | None] | None = None,
    captions: Sequence[str] | None = None,
    title: str = "",
    columns: int = 6,
    tile: int = 240,
) -> np.ndarray:
    """Arranges frames in a grid and draws their landmarks, masks, crops and captions.

    Args:
        frames: N images (H, W, 3) uint8 RGB of any size; each is fitted into a square.
        landmarks: (P, 3) pixels per frame, drawn as green points; NaN where there are none.
        masks: (H, W) bool or [0, 1] per frame, drawn as a red outline at one half.
        crops: a square per frame, drawn in yellow; None where there is none.
        captions: a short text per frame; longer ones are truncated to the width of the tile.
        title: a line above the grid.
        columns: tiles per row.
        tile: side of a tile in pixels.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        InputError: there are no frames, or one of the lists has another length.
    """
    if len(frames) == 0:
        raise InputError(
            "there is no frame for the contact sheet; give at least one", code=ErrorCode.missing_value, field="frames"
        )
    for name, values in (("landmarks", landmarks), ("masks", masks), ("crops", crops), ("captions", captions)):
        if values is not None and len(values) != len(frames):
            raise InputError(
                f"there are {len(values)} {name} for {len(frames)} frames; give one per frame",
                code=ErrorCode.shape_mismatch,
                field=name,
                value=len(values),
            )
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    line = 22
    row_height = tile + _GAP + (line if captions is not None else 0)
    top = _GAP + (line + _GAP if title else 0)
    sheet = Image.new("RGB", (_GAP + columns * (tile + _GAP), top + rows * row_height), _BACKGROUND_COLOR)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    if title:
        pen.text((_GAP, _GAP), title, fill=_TEXT_COLOR, font=font)
    for number, frame in enumerate(frames):
        x, y = _GAP + number % columns * (tile + _GAP), top + number // columns * row_height
        drawn = _draw_tile(
            frame,
            None if landmarks is None else landmarks[number],
            None if masks is None else masks[number],
            None if crops is None else crops[number],
            tile,
        )
        sheet.paste(Image.fromarray(drawn), (x + (tile - drawn.shape[1]) // 2, y + (tile - drawn.shape[0]) // 2))
        if captions is not None:
            pen.text((x, y + tile + 2), _truncate_text(captions[number], font, tile), fill=_TEXT_COLOR, font=font)
    return np.asarray(sheet)


def _draw_tile(
    frame: np.ndarray, landmarks: np.ndarray | None, mask: np.ndarray | None, crop: SquareCrop | None, tile: int
) -> np.ndarray:
    """Scales a frame to fit into a tile and draws its annotations at the tile's resolution."""
    scale = tile / max(frame.shape[:2])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    image = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if landmarks is not None and np.isfinite(landmarks).all():
        # All 478 points would hide a small face.
        sparse = max(1, round(40 / max(1.0, float(interocular_distance(landmarks)) * scale)))
        for x, y in (landmarks[::sparse, :2] * scale * 16).round().astype(int).tolist():
            cv2.circle(image, (x, y), 10, _LANDMARK_COLOR, -1, cv2.LINE_AA, shift=4)
    if mask is not None:
        small = cv2.resize(np.asarray(mask, np.float32), size, interpolation=cv2.INTER_LINEAR)
        outline, _ = cv2.findContours((small >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outline, -1, _LIP_MASK_COLOR, 1, cv2.LINE_AA)
    if crop is not None:
        corner = (round(crop.x * scale), round(crop.y * scale))
        opposite = (round((crop.x + crop.side) * scale) - 1, round((crop.y + crop.side) * scale) - 1)
        cv2.rectangle(image, corner, opposite, _CROP_COLOR, 2)
    return image


def _truncate_text(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> str:
    """Returns the longest beginning of the text that fits into `width` pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
