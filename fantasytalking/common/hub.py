"""Hub ids, and where the files of one are on this machine."""

import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CHECKPOINTS_FOLDER = Path("checkpoints")
"""Where the commands that messages and README tell put what is downloaded."""


def local_folder(hub_id: str) -> Path:
    """Where the files of a hub id are put: checkpoints/NAME."""
    return CHECKPOINTS_FOLDER / hub_id.rsplit("/", 1)[-1]


def resolve_local(path_or_id: str | Path) -> str | Path:
    """The local folder of a hub id where there is one; else `path_or_id` itself."""
    if Path(path_or_id).exists() or not HUB_ID.fullmatch(str(path_or_id)):
        return path_or_id
    local = local_folder(str(path_or_id))
    return local if local.is_dir() else path_or_id
