"""The limits on what files of others may cost stand in one module and in the documentation."""

import re
import runpy

from tests.helpers.paths import ROOT

LIMITS = ROOT / "fantasytalking/common/limits.py"
BOUNDS_OF_OUR_OWN = {
    "fantasytalking/common/files.py",  # names that are written
    "fantasytalking/common/locks.py",  # what is shown of a lock's holder
    "fantasytalking/inference/job.py",  # names that are written
    "fantasytalking/encoders/wan.py",  # what is encoded at once
    "fantasytalking/models/cpu/memory.py",  # what the allocator keeps
    "fantasytalking/nano/config.py",  # what is built
    "fantasytalking/media/audio_pipe.py",  # a part of the WAV header
}


def test_the_documentation_lists_every_limit() -> None:
    table = runpy.run_path(str(ROOT / "docs/make_limits.py"))["limit_table"]()
    names = re.findall(r"^(MAX_\w+) =", LIMITS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 40 and re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == names
    assert table in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), "run docs/make_limits.py"


def test_no_other_module_has_limits_of_bytes_or_pixels() -> None:
    elsewhere = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fantasytalking").rglob("*.py")
        if re.search(r"^_?MAX_\w*(BYTES|PIXELS)\w* *=", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert elsewhere - BOUNDS_OF_OUR_OWN == {"fantasytalking/common/limits.py"}
