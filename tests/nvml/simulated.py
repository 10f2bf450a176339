"""GPUs that are not there: builds the simulated NVML and hands out the environment in which processes find it.

In a test, `with simulated(tmp_path, "util=const:90; util.2=const:30") as gpus:` gives `gpus.env` to start processes
with; `gpus.set(...)` changes what running ones see. By hand: `python3 tests/nvml/simulated.py SCENARIO COMMAND...` runs
a command among such GPUs; without one it prints the lines that a shell needs. README.md: what a scenario may say.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "libnvidia-ml.so.1"
BUILT = HERE / "build" / LIBRARY
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}"]


def build() -> Path:
    """The library, compiled by `cc` where it is older than a source."""
    BUILT.parent.mkdir(exist_ok=True)
    with (BUILT.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        sources = [*sorted(HERE.glob("*.c")), HERE / "simulated.h"]
        if not BUILT.exists() or BUILT.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            made = BUILT.with_suffix(".tmp")
            code = [str(path) for path in sources if path.suffix == ".c"]
            subprocess.run(["cc", *FLAGS, *code, "-o", str(made), "-lm", "-lpthread"], check=True)
            made.rename(BUILT)
    return BUILT


@dataclass
class Simulated:
    """GPUs of one scenario. Time 0 of its waves is the moment at which it was first written, for every process."""

    folder: Path
    epoch: float
    env: dict[str, str]

    def set(self, scenario: str) -> None:
        """Another scenario from now on, also for the processes that are running; its clock goes on."""
        made = self.folder / "scenario.tmp"
        made.write_text(f"epoch={self.epoch}\ncounts={self.folder / 'counts'}\n{scenario}\n")
        made.rename(self.folder / "scenario")

    def restart(self, scenario: str) -> None:
        """The same, with its clock at 0."""
        self.epoch = time.time()
        self.set(scenario)

    @property
    def seconds(self) -> float:
        """The scenario's clock."""
        return time.time() - self.epoch

    def follow(self, gpu: int, *pids: int) -> None:
        """What `follow=<gpus.pids>` reads: these processes use that GPU now."""
        self.pids.mkdir(exist_ok=True)
        made = self.pids / f"{gpu}.tmp"
        made.write_text("".join(f"{pid}\n" for pid in pids))
        made.rename(self.pids / str(gpu))

    @property
    def pids(self) -> Path:
        return self.folder / "pids"

    def calls(self) -> Counter[str]:
        """How often each function was called, by all processes, also by those that were killed."""
        counts: Counter[str] = Counter()
        for path in (self.folder / "counts").iterdir():
            for line in path.read_text().rstrip("\0").splitlines():
                name, count = line.split()
                counts[name] += int(count)
        return counts

    @contextmanager
    def here(self) -> Iterator[None]:
        """The same GPUs for pynvml in this process, which has it initialized meanwhile."""
        import pynvml  # the Python of one who runs this file by hand need not have it

        before = pynvml.nvmlLib
        os.environ["SIMULATED_NVML"] = self.env["SIMULATED_NVML"]
        pynvml.nvmlLib = ctypes.CDLL(str(build()))
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlInit()
        try:
            yield
        finally:
            pynvml.nvmlShutdown()
            pynvml._nvmlGetFunctionPointer_cache.clear()
            pynvml.nvmlLib = before
            del os.environ["SIMULATED_NVML"]


def start(folder: Path, scenario: str = "") -> Simulated:
    """The same as `simulated`, for longer than a `with`."""
    home = (folder / "nvml").resolve()
    (home / "counts").mkdir(parents=True)
    paths = [str(build().parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths), "SIMULATED_NVML": str(home / "scenario")}
    gpus = Simulated(home, time.time(), env)
    gpus.set(scenario)
    return gpus


@contextmanager
def simulated(folder: Path, scenario: str = "") -> Iterator[Simulated]:
    """Four A10Gs, unless the scenario says otherwise, for every process that is started with `.env`."""
    gpus = start(folder, scenario)
    try:
        yield gpus
    finally:
        gpus.set("")  # calls that hang return, so that their processes can end


def main(words: list[str]) -> int:
    scenario, command = (words[0], words[1:]) if words else ("", [])
    gpus = start(Path(tempfile.mkdtemp(prefix="simulated-gpus-")), scenario)
    if command:
        return subprocess.run(command, env=gpus.env).returncode
    for name in ("LD_LIBRARY_PATH", "SIMULATED_NVML"):
        print(f"export {name}={shlex.quote(gpus.env[name])}")
    print(f"the scenario is in {gpus.env['SIMULATED_NVML']}: change it at any time", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
