"""What the operating system reports about files and disks, in words for the user."""

import errno
import os
import re

_CURES = {
    errno.ENOSPC: "free some disk space, or choose another folder",
    errno.EDQUOT: "free some of the disk quota, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system",
    errno.EIO: "check the disk or the connection to it, or choose another folder",
    errno.ESTALE: "check the connection to the disk, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EACCES: "check its permissions and those of its folders, or choose another path",
    errno.EPERM: "check its permissions and those of its folders, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file; check the path",
    errno.EISDIR: "give the path of a file",
    errno.ELOOP: "its links form a circle; check the path",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, the system has too many open files",
}
FULL_DISK_ERRORS = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
"""Errors of a disk, a quota or a limit that is used up."""
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_TORCH_ARCHIVE = ("inline_container", "PytorchStreamWriter")


def os_error_number(error: BaseException) -> int | None:
    """Returns the number of the operating system's error: of an OSError, or of one that safetensors reports as text.

    torch.save says no more than that its archive is incomplete, which is taken for a full disk. None: another error.
    """
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    if found := _NUMBER_IN_TEXT.search(text):
        return int(found[1])
    return errno.ENOSPC if any(name in text for name in _TORCH_ARCHIVE) else None


def describe_folder_error(error: OSError) -> str:
    """Returns the reason and the cure of an error of creating a folder."""
    number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno  # a file has its name
    return describe_os_error(number) or f"{error.strerror}; choose another path"


def describe_os_error(number: int | None) -> str | None:
    """Returns the reason and the cure of an error that the user can do something about; None for any other."""
    cure = _CURES.get(number or 0)
    return None if cure is None else f"{os.strerror(number or 0)}; {cure}"
