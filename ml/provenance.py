"""What a figure was made with: the commit of this program and the command line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

UNKNOWN = "unknown"


@cache
def present_commit() -> str:
    """The commit this was run from, with `+` where the working tree differs from it; "unknown" without a checkout.

    As it was when a process first asked, which `ml.cli.main` does: the tree may move on while a training runs.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return UNKNOWN
    return f"{commit}+" if _git("status", "--porcelain", "--untracked-files=no") else commit


def present_command(*, hidden: str = "") -> str:
    """The command line of this process, as it can be typed again, but for the values of an option that is `hidden`: a
    bundle is given away, and they may have a patient's name.
    """
    words = sys.argv[1:]
    for place, (before, word) in enumerate(pairwise(["", *words])):
        if hidden and before == hidden:
            words[place] = "..."
        elif hidden and word.startswith(f"{hidden}="):
            words[place] = f"{hidden}=..."
    return "python -m ml " + shlex.join(words)


def _git(*arguments: str) -> str | None:
    try:
        asked = subprocess.run(  # noqa: S603 (constant arguments)
            ["git", *arguments],  # noqa: S607 (git is found on the path)
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
