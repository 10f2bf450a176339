"""The code that a matrix runs, frozen: a copy of the tree, named by its content, that later edits do not reach."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lib.errors import Refused
from lib.journal import environment
from lib.options import sha256_of

SHARED = ("runs", "data")  # one and the same from every copy
SKIPPED = {*SHARED, ".venv", ".git"}  # of the top level
DIGITS = 12
KEPT = ("environment.json", "dirty.diff")  # where the copy came from; beside the code, no part of its hash


def freeze(root: Path, project: Path) -> Path:
    """The copy of the tree at `root` in the folder of `project`; made once for each state of the code."""
    contents = {name: (root / name).read_bytes() for name in sorted(_files(root))}
    told = "".join(f"{sha256_of(content)} {name}\n" for name, content in contents.items())
    place = project / "src" / sha256_of(told.encode(errors="surrogateescape"))[:DIGITS]
    if place.is_dir():
        return place
    for name in SHARED:
        try:
            (root / name).mkdir(exist_ok=True)
        except FileExistsError:
            raise Refused(f"{root / name}: this is no folder, or a link to none. Mend it, or move it away") from None
    fresh = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)  # of one with our number that was killed
    try:
        _copy(contents, root, fresh, place)
        fresh.rename(place)
    except OSError:
        if not place.is_dir():  # else another one was faster
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def _copy(contents: Mapping[str, bytes], root: Path, fresh: Path, place: Path) -> None:
    """The files of `root` in `fresh`, which will be `place`, and where they came from."""
    for name, content in contents.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod((root / name).stat().st_mode)
    environment.record(fresh)
    for name in SHARED:
        (fresh / name).symlink_to(os.path.relpath((root / name).resolve(), place.parent.resolve() / place.name))


def about(place: Path) -> dict[str, str]:
    """Where the code at `place` came from, as files of a run folder."""
    return {name: (place / name).read_text(errors="surrogateescape") for name in KEPT if (place / name).exists()}


def _files(root: Path) -> Iterator[str]:
    """What git has or would take; where there is no git, everything but what is made here."""
    words = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(words, capture_output=True)
        names = listed.stdout.decode(errors="surrogateescape").split("\0") if listed.returncode == 0 else []
    except OSError:
        names = []
    if not any(names):
        for folder, inside, files in os.walk(root):
            unwanted = SKIPPED if Path(folder) == root else {"__pycache__"}
            inside[:] = [name for name in inside if name not in unwanted]
            names += [str((Path(folder) / name).relative_to(root)) for name in files]
    yield from (name for name in names if name and (root / name).is_file() and name.split("/")[0] not in SKIPPED)
