"""Finds local copies of files that are named by a hub id."""

import re
from pathlib import Path

from fantasytalking.common.resources import resource_path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CHECKPOINTS_FOLDER = Path("checkpoints")
"""Folder into which the download commands of messages and README write."""


def local_folder(hub_id: str) -> Path:
    """Returns the folder for the files of a hub id: checkpoints/NAME."""
    return CHECKPOINTS_FOLDER / hub_id.rsplit("/", 1)[-1]


def resolve_local(path_or_id: str | Path) -> str | Path:
    """Returns the local folder or file of a path or hub id if it exists, otherwise `path_or_id` itself.

    checkpoints/... is looked up in the working directory, then beside the package (see `resource_path`).
    """
    path = resource_path(path_or_id)
    if path.exists():
        return path if isinstance(path_or_id, Path) else str(path)
    if not HUB_ID.fullmatch(str(path_or_id)):
        return path_or_id
    local = resource_path(local_folder(str(path_or_id)))
    return local if local.is_dir() else path_or_id
