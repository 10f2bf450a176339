"""The sidecar: one process per run that supervises one process per tracker and outlives the trainer to drain them.

`python -m lib.track.sidecar FOLDER TIMEOUT_S NAME…`. Its standard input is a pipe from the trainer: when that ends, the
trainer has finished or died, and the trackers get TIMEOUT_S seconds to take what is left. `make tracker-sync` starts it
with that pipe closed at once: it replays.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from lib.files import append_line
from lib.journal.folder import RunFolder
from lib.options import ROOT
from lib.track.worker import REPORTED

POLL_S = 0.2
NOT_FOR_CLIENTS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_", "TORCHELASTIC_")


def environment() -> dict[str, str]:
    """This environment without the distributed job's variables, without its GPUs, and with Kilter importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_CLIENTS)}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(paths)}


def start(folder: RunFolder, names: list[str], timeout_s: float) -> subprocess.Popen[bytes]:
    """Start the sidecar of the run in `folder` for the trackers `names`; close its stdin to let it finish."""
    command = [sys.executable, "-m", "lib.track.sidecar", str(folder.path.resolve()), str(timeout_s), *names]
    with (folder.trackers / "sidecar.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment(), cwd=ROOT, start_new_session=True
        )


class Sidecar:
    """The trackers' processes of one run."""

    def __init__(self, folder: RunFolder, names: list[str]) -> None:
        self._folder = folder
        self._workers = {name: self._spawn(name) for name in names}

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lib.track.worker", str(self._folder.path), name]
        with (self._folder.trackers / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def look(self) -> None:
        """Notice who has died."""
        for name, worker in list(self._workers.items()):
            if worker.poll() is None:
                continue
            del self._workers[name]
            if worker.returncode not in (0, REPORTED):
                code = worker.returncode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                append_line(self._folder.trackers / f"{name}.jsonl", {"event": "failed", "why": f"its process {how}"})

    def drain(self, timeout_s: float) -> None:
        """Let everyone take what is left, at most `timeout_s` seconds; end those who are not done then."""
        for worker in self._workers.values():
            assert worker.stdin is not None
            with contextlib.suppress(OSError):
                worker.stdin.close()
        until = time.monotonic() + timeout_s
        while self._workers and time.monotonic() < until:
            time.sleep(POLL_S)
            self.look()
        for name, worker in self._workers.items():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            append_line(
                self._folder.trackers / f"{name}.jsonl", {"event": "failed", "why": f"not done in {timeout_s:g} s"}
            )

    def watch(self) -> None:
        """Until the trainer lets go of its end of our standard input, or is gone."""
        parent = os.getppid()
        while not select.select([sys.stdin], [], [], 1.0)[0] and os.getppid() == parent:
            self.look()


def main() -> int:
    os.nice(10)
    folder, timeout_s, names = RunFolder(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3:]
    sidecar = Sidecar(folder, names)
    sidecar.watch()
    sidecar.drain(timeout_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
