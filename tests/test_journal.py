"""The journal and the run folder: nothing that was logged is lost, whatever happens to process, file or disk."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import files
from lib.errors import Refused
from lib.journal import folder, lines
from lib.journal.environment import variables
from lib.journal.lines import Journal, Reader, Value
from lib.options import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / lines.NAME


def test_what_was_appended_is_read_back(path: Path) -> None:
    journal = Journal(path)
    journal.append({"loss": 0.1, "note": "warm", "ok": True, "none": None}, 0)
    journal.append({"loss": 0.30000000000000004}, 1)
    first, second = Reader(path).read()
    assert first.values == {"loss": 0.1, "note": "warm", "ok": True, "none": None}
    assert (second.seq, second.step, second.values) == (1, 1, {"loss": 0.30000000000000004})


def test_what_json_has_not_goes_in_as_a_text_without_its_secrets(path: Path) -> None:
    token = "hf_" + 20 * "a"
    Journal(path).append({}, 0, options={"wandb": {"where": Path("/tmp"), "of": Path(token)}})
    (line,) = Reader(path).read()
    assert line.options == {"wandb": {"where": "/tmp", "of": "***"}}


def test_numbers_take_the_short_way_whatever_their_names_and_are_read_back_to_the_last_digit(path: Path) -> None:
    values = {'per cent % of "x"\n': 0.1 + 0.2, "%r": 5e-324, "größe": 1.7976931348623157e308, "count": 2**53 + 1}
    Journal(path).append(values, 2**40)
    (line,) = Reader(path).read()
    assert (line.step, line.values) == (2**40, values)
    assert list(map(type, line.values.values())) == [float, float, float, int]


def test_the_same_names_with_other_kinds_of_values_are_no_trap(path: Path) -> None:
    journal = Journal(path)
    given: list[Value] = [0.5, 1, True, None, "text", math.inf, -0.0]
    for value in given:
        journal.append({"a": value, "b": 0.25}, 0)
    assert [repr(line.values["a"]) for line in Reader(path).read()] == [repr(value) for value in given]


def test_inf_and_nan_survive_in_lines_that_are_plain_json(path: Path) -> None:
    Journal(path).append({"a": math.inf, "b": -math.inf, "c": math.nan, "d": 1.0}, 3)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    values = Reader(path).read()[0].values
    assert values["a"] == math.inf and values["b"] == -math.inf and values["d"] == 1.0
    assert isinstance(values["c"], float) and math.isnan(values["c"])


def test_a_torn_or_foreign_line_is_skipped_and_counted_wherever_it_stands(path: Path) -> None:
    journal = Journal(path)
    journal.append({"a": 1}, 0)
    for foreign in (
        b'{"seq": 1, "ti\n',
        b"hello\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"seq":1,"time":0,"step":"x","values":{}}\n',
    ):
        with path.open("ab") as file:
            file.write(foreign)
        journal.append({"a": 2}, 1)
    reader = Reader(path)
    assert [line.values["a"] for line in reader.read()] == [1, 2, 2, 2, 2, 2]
    assert reader.skipped == 5


def test_a_line_torn_by_a_crash_is_closed_by_the_next_writer(path: Path) -> None:
    Journal(path).append({"a": 1}, 0)
    with path.open("ab") as file:
        file.write(b'{"seq":1,"time":1.0,"step":1,"val')
    Journal(path).append({"a": 3}, 2)
    assert [(line.step, line.seq) for line in Reader(path).read()] == [(0, 0), (2, 1)]


def test_a_reader_leaves_a_line_that_is_still_being_written(path: Path) -> None:
    Journal(path).append({"a": 1}, 0)
    with path.open("ab") as file:
        file.write(b'{"seq":1,"time":1.0,')
        reader = Reader(path)
        assert len(reader.read()) == 1 and reader.read() == []
        file.write(b'"step":1,"values":{"a":2}}\n')
    assert [line.step for line in reader.read()] == [1]


def test_a_reader_goes_on_from_its_offset(path: Path) -> None:
    journal = Journal(path)
    for step in range(10):
        journal.append({"a": step}, step)
    reader = Reader(path)
    assert len(reader.read(most=200)) < 10
    rest = Reader(path, reader.offset).read()
    assert rest[-1].step == 9 and rest[0].step == 10 - len(rest)


def test_a_line_longer_than_one_read_is_read_whole(path: Path) -> None:
    Journal(path).append({"text": "x" * 5000}, 0)
    assert len(Reader(path).read(most=100)) == 1


def test_after_a_rewind_the_later_steps_are_void(path: Path) -> None:
    journal = Journal(path)
    for step in (0, 1, 2, 3):
        journal.append({"a": step}, step)
    journal.rewind(1)
    journal.append({"a": 20}, 2)
    assert [line.values["a"] for line in lines.read(path.parent)] == [0, 1, 20]


def test_with_the_disk_full_lines_wait_with_one_warning(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: writes come up short, at each byte of a line, then fail."""
    code = """
import resource, signal, sys
from pathlib import Path
from lib.journal import lines
lines.MENDABLE.add(27)  # EFBIG, what a file-size limit answers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in range(1000, 1080):
    journal = lines.Journal(Path(sys.argv[1]) / str(limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for step in range(100):
        journal.append({"a": step}, step)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append({"a": 100}, 100)
    journal.close()
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.iterdir():
        assert [line.step for line in Reader(path).read()] == list(range(101)), path.name
    assert done.stderr.count("warning") == 80, "one for each journal"


def test_every_line_that_append_returned_from_survives_sigkill(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from lib.journal.lines import Journal
journal = Journal(Path(sys.argv[1]))
for step in range(10**9):
    journal.append({"a": step * 0.1}, step)
    sys.stdout.write(f"{step}\\n"); sys.stdout.flush()
"""
    path = tmp_path / lines.NAME
    child = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    last = [child.stdout.readline() for _ in range(1000)][-1]
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
    returned = int(rest[-1]) if rest else int(last)
    steps = [line.step for line in lines.read(tmp_path)]
    assert steps[: returned + 1] == list(range(returned + 1)) and len(steps) <= returned + 2


def test_runs_of_the_same_name_get_folders_of_their_own(tmp_path: Path) -> None:
    names = [folder.RunFolder.create(tmp_path, "p", "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_only_one_process_holds_a_run(tmp_path: Path) -> None:
    store = folder.RunFolder.create(tmp_path, "p", "run")
    lock = store.lock
    assert store.lock.holder is None
    assert lock.take()
    assert store.lock.holder == f"{os.getpid()} {os.uname().nodename}"
    assert not store.lock.take(patience_s=0.1)
    lock.free()
    assert store.lock.holder is None


def test_the_state_of_a_run_is_what_its_files_say(tmp_path: Path) -> None:
    store = folder.RunFolder.create(tmp_path, "p", "run")
    assert store.state() == "empty"
    store.record("start")
    assert store.state() == "killed"
    lock = store.lock
    lock.take()
    assert store.state() == "running"
    lock.free()
    store.record("end", status="interrupted")
    assert store.state() == "interrupted"
    folder.write_result(store.path, {"steps": 1})
    assert store.state() == "finished"


def test_the_newest_unfinished_run_of_the_same_configuration_is_found(tmp_path: Path) -> None:
    def run(name: str, digest: str, *events: dict[str, str]) -> folder.RunFolder:
        store = folder.RunFolder.create(tmp_path, "p", name)
        files.write_whole(store.path / "config.json", json.dumps({"provenance": {"hash": digest}}))
        for event in events:
            store.record(**event)  # type: ignore[arg-type]
        time.sleep(0.01)
        return store

    run("older", "a", {"event": "start"})
    wanted = run("wanted", "a", {"event": "start"}, {"event": "end", "status": "interrupted"})
    run("other", "b", {"event": "start"})
    folder.write_result(run("done", "a", {"event": "start"}).path, {})
    run("never-started", "a")
    found = folder.unfinished(tmp_path, "p", "a")
    assert found and found.path == wanted.path
    assert folder.unfinished(tmp_path, "p", "c") is None


def test_a_run_is_found_by_name_or_path_or_refused(tmp_path: Path) -> None:
    for project in ("p", "q"):
        for name in {"p": ("one", "same"), "q": ("same",)}[project]:
            files.write_whole(folder.RunFolder.create(tmp_path, project, name).path / "config.json", "{}")
    assert folder.find(tmp_path, "one").path == tmp_path / "p" / "one"
    assert folder.find(tmp_path, "q/same").path == tmp_path / "q" / "same"
    assert folder.find(tmp_path, str(tmp_path / "p" / "one")).name == "one"
    with pytest.raises(Refused, match="2 projects"):
        folder.find(tmp_path, "same")
    with pytest.raises(Refused, match="no such run folder; the newest is"):
        folder.find(tmp_path, "nope")


def test_no_secret_of_a_client_is_recorded() -> None:
    environ = {
        "WANDB_API_KEY": "k1", "HF_TOKEN": "k2", "WANDB_MODE": "offline", "HOME": "/root",
        "HF_ENDPOINT": "https://user:k3@hub.example/x?token=k4", "TRACKIO_WRITE_TOKEN": "k5",
    }  # fmt: skip
    told = variables(environ)
    assert told == {"HF_ENDPOINT": "https://***@hub.example/x?token=***", "WANDB_MODE": "offline"}


def test_a_lock_that_was_freed_is_free_also_when_a_forked_child_lives(tmp_path: Path) -> None:
    ours = files.Lock(tmp_path / "lock")
    assert ours.take()
    if not (child := os.fork()):
        time.sleep(60)
        os._exit(0)
    try:
        ours.free()
        assert ours.holder is None
        theirs = files.Lock(tmp_path / "lock")
        assert theirs.take(patience_s=0)
        theirs.free()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
