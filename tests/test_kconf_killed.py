"""Killed, without room, or two at once: .config and config.py stay a pair, and the next verb finds all in order."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from configuring import configure, copied_to, environment, made


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


KILLED = """\
import os, runpy, signal, sys
from pathlib import Path
left, rename = int(sys.argv.pop(1)), Path.replace
def replace(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.replace = replace
sys.argv = ["scripts/configure.py", *sys.argv[1:]]
runpy.run_path("scripts/configure.py", run_name="__main__")
"""


def pair(root: Path) -> tuple[bytes, bytes]:
    return (root / ".config").read_bytes(), (root / "config.py").read_bytes()


def belong_together(dotconfig: bytes, python: bytes) -> bool:
    return hashlib.sha256(dotconfig).hexdigest().encode() in python


def seen_by_a_run(root: Path) -> int:
    code = "from lib import kconf, options; print(options.load('lenet5', [], front_end=kconf).seed)"
    told = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment(), capture_output=True, check=True)
    return int(told.stdout)


@pytest.mark.parametrize("renamed", range(4))
def test_a_kill_between_any_two_steps_leaves_one_configuration(checkout: Path, renamed: int) -> None:
    """Two files can't be replaced in one step: after .config alone was, runs follow it, and the next verb mends."""
    made(checkout, "SEED=1")
    old = pair(checkout)
    words = [sys.executable, "-c", KILLED, str(renamed), "defconfig", "SEED=2"]
    killed = subprocess.run(words, cwd=checkout, env=environment(), capture_output=True, check=False)
    assert (killed.returncode, renamed) in ((-signal.SIGKILL, renamed), (0, 3)), killed.stderr
    dotconfig, python = pair(checkout)
    assert (dotconfig == old[0]) == (renamed < 2)  # the first is .config.old
    assert (python == old[1]) == (renamed < 3)
    assert belong_together(dotconfig, python) == (renamed != 2)
    assert seen_by_a_run(checkout) == (1 if renamed < 2 else 2)
    assert made(checkout, "SEED=2").SEED == 2 and belong_together(*pair(checkout))
    assert list(checkout.glob(".*.tmp")) == []


def test_kills_at_any_time_never_leave_half_a_file(checkout: Path) -> None:
    command = [sys.executable, "scripts/configure.py", "defconfig"]
    subprocess.run([*command, "SEED=1"], cwd=checkout, env=environment(), capture_output=True, check=True)  # compiles
    began = time.monotonic()
    subprocess.run([*command, "SEED=1"], cwd=checkout, env=environment(), capture_output=True, check=True)
    whole = time.monotonic() - began
    chance, killed, wholes = random.Random(3), 0, {pair(checkout)[0]: 1}
    for seed in range(2, 32):
        process = subprocess.Popen([*command, f"SEED={seed}"], cwd=checkout, env=environment(), stdout=subprocess.PIPE)
        with process:
            time.sleep(chance.uniform(0.3, 1.1) * whole)
            process.kill()
        killed += process.returncode != 0
        dotconfig, _ = pair(checkout)
        now = seen_by_a_run(checkout)
        assert now in (seed, wholes.get(dotconfig, seed)), "neither the old nor the new configuration"
        compile((checkout / "config.py").read_text(), "config.py", "exec")
        wholes[dotconfig] = now
    assert killed >= 3, "the kills came too late to show anything"
    assert made(checkout, "SEED=99").SEED == 99 and belong_together(*pair(checkout))
    assert list(checkout.glob(".*.tmp")) == []


FULL = """\
mount -t tmpfs -o size=256k none full || exit 77
"$0" scripts/configure.py defconfig O=full SEED=1 || exit 78
cp -r full before
cat /dev/zero > full/filled 2>/dev/null
"$0" scripts/configure.py defconfig O=full SEED=2 WARMUP_STEPS=3
status=$?
rm full/filled
cp -r full after
exit $status
"""
SMALL = """\
"$0" scripts/configure.py defconfig O=full SEED=1 || exit 78
cp -r full before
(ulimit -f 1; exec "$0" scripts/configure.py defconfig O=full SEED=2 WARMUP_STEPS=3)
status=$?
cp -r full after
exit $status
"""


def mounting_is_permitted() -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("shell", "script"), [(["unshare", "-rm", "sh"], FULL), (["sh"], SMALL)], ids=["full disk", "file size limit"]
)
def test_without_room_the_old_pair_stays(checkout: Path, shell: list[str], script: str) -> None:
    if shell[0] == "unshare" and not mounting_is_permitted():
        pytest.skip("mounting is not permitted here")
    (checkout / "full").mkdir()
    told = subprocess.run(
        [*shell, "-c", script, sys.executable], cwd=checkout, env=environment(), capture_output=True, check=False
    )
    assert told.returncode == 2 and re.fullmatch(rb"error: .*: cannot be written: .*\n", told.stderr), told
    before, after = checkout / "before", checkout / "after"
    assert pair(before) == pair(after) and belong_together(*pair(after))
    assert sorted(path.name for path in after.iterdir()) == sorted(path.name for path in before.iterdir())


def test_two_verbs_at_once_leave_one_configuration(checkout: Path) -> None:
    made(checkout, "SEED=1")
    for seed in range(2, 8):
        words = (["defconfig", "MODEL=gpt2", f"SEED={seed}"], ["setconfig", "OPTIMIZER=sgd"])
        with ThreadPoolExecutor(2) as pool:
            told = list(pool.map(lambda word: configure(checkout, *word), words))
        assert [process.returncode for process in told] == [0, 0], told
        assert belong_together(*pair(checkout))
        assert seen_by_a_run(checkout) in range(1, seed + 1)
