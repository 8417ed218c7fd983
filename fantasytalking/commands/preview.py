"""`fantasytalking preview`: writes an animation or a contact sheet of a video."""

import argparse
from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import check_has_stem
from fantasytalking.common.limits import MAX_IMAGE_PIXELS

DESCRIPTION = """Writes a preview of a video: an animated WebP or GIF, or a contact sheet of evenly spaced frames.

    {command} --input VIDEO --output preview.webp [--start 2] [--seconds 4] [--fps 12.5] [--height 256]
    {command} --input VIDEO --output sheet.png [--frames 12]

The suffix of the output selects the kind: .webp and .gif are animations, .png and .jpg are contact sheets.
"""
LIMITS = {"height": 2160, "frames": 200}


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and writes the preview."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--input", required=True, help="video file")
    parser.add_path("--output", required=True, help=".webp or .gif (animation), .png or .jpg (sheet)")
    parser.add_argument("--start", type=float, default=0.0, help="seconds at which an animation starts")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of an animation")
    parser.add_argument("--fps", type=float, default=12.5, help="frames per second of an animation")
    parser.add_argument("--height", type=int, default=256, help="height in pixels of an animation or of a sheet's tile")
    parser.add_argument("--frames", type=int, default=12, help="number of frames of a sheet")
    options = parser.parse_args(arguments)
    for name, high in LIMITS.items():
        value = getattr(options, name)
        if not 1 <= value <= high:
            raise InputError(
                f"--{name} is {value}; it must be 1 to {high}",
                code=ErrorCode.out_of_range,
                field=f"--{name}",
                value=value,
            )

    from fantasytalking.media.preview import PREVIEW_SUFFIXES

    check_has_stem(options.output, [*PREVIEW_SUFFIXES, ".png", ".jpg", ".jpeg"], "--output")
    if options.output.suffix.lower() in PREVIEW_SUFFIXES:
        _write_animation(options)
    else:
        _write_sheet(options)


def _write_animation(options: argparse.Namespace) -> None:
    import cv2
    import numpy as np

    from fantasytalking import media
    from fantasytalking.media.container import check_frame_size

    def resized(frame: "np.ndarray") -> "np.ndarray":
        width = max(1, round(frame.shape[1] * options.height / frame.shape[0]))
        check_frame_size(options.input, width, options.height)
        return np.asarray(cv2.resize(frame, (width, options.height), interpolation=cv2.INTER_AREA))

    stream = media.iter_frames(options.input, fps=options.fps, start=options.start, duration=options.seconds)
    media.write_preview(options.output, (resized(frame) for _, frame in stream), fps=options.fps)


def _write_sheet(options: argparse.Namespace) -> None:
    import numpy as np

    from fantasytalking import media
    from fantasytalking.perception.contact_sheet import contact_sheet

    if options.frames * options.height**2 > MAX_IMAGE_PIXELS:
        raise InputError(
            f"{options.frames} tiles of {options.height}x{options.height} pixels are too many for an image; the limit "
            f"is {MAX_IMAGE_PIXELS} pixels; set a lower --height",
            code=ErrorCode.out_of_range,
            field="--height",
            value=options.height,
        )
    times = np.linspace(0, media.probe(options.input).duration, options.frames, endpoint=False)
    captions = [f"{time:.2f} s" for time in times]
    sheet = contact_sheet(media.read_frames_at(options.input, times.tolist()), captions=captions, tile=options.height)
    media.write_image(options.output, sheet)
