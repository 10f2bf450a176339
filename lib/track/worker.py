"""One tracker's process: reads the journal of a run from an offset of its own and feeds the client.

`python -m lib.track.worker FOLDER NAME`. It holds the lock of (run, tracker) while it lives, keeps its offset there,
and says what happened in `trackers/<name>.jsonl`. When its standard input ends it takes what is left and finishes.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from pathlib import Path

from lib.files import append_line, read_object, write_whole
from lib.journal import lines as journal
from lib.journal import secrets
from lib.journal.folder import RunFolder
from lib.track.client import Client, connect

POLL_S = 0.2
LONGEST_REASON = 300  # characters
REPORTED = 3  # exit status of a worker that has said itself why it failed


class Worker:
    """Feeds `client` with the journal of the run in `folder`, each line that counts once."""

    def __init__(self, folder: RunFolder, name: str, client: Client) -> None:
        self._folder = folder
        self._name = name
        self._client = client
        self._reader = journal.Reader(folder.path / journal.NAME)
        self.sent = 0

    def open(self) -> str:
        """Start the client and bring it up to date; how the user looks at the run."""
        offset = offset_of(self._folder, self._name)
        ahead = journal.Reader(self._folder.path / journal.NAME, offset)
        rewound = offset > 0 and any(line.rewind is not None for line in ahead.rest())
        fresh = self._client.rebuilds or rewound
        self._reader = journal.Reader(self._folder.path / journal.NAME, 0 if fresh else offset)
        look = self._client.start(fresh=fresh)
        self._send(journal.effective(self._reader.rest()))
        return look

    def pump(self) -> None:
        """Hand over what the journal has gained. After a rewind the store is brought back in line first."""
        lines = self._reader.read()
        if any(line.rewind is not None for line in lines):
            self._client.finish(failed=False)
            self.open()
        elif lines:
            self._send(lines)

    def drain(self) -> None:
        """Hand over all that is there."""
        before = -1
        while before != self._reader.offset:
            before = self._reader.offset
            self.pump()

    def _send(self, lines: list[journal.Line]) -> None:
        if lines:
            self._client.log(lines)
            self.sent += len(lines)
        write_whole(_state_of(self._folder, self._name), json.dumps({"offset": self._reader.offset}))


def offset_of(folder: RunFolder, name: str) -> int:
    """Bytes of the run's journal that the tracker `name` has stored."""
    return int((read_object(_state_of(folder, name)) or {}).get("offset", 0))


def _state_of(folder: RunFolder, name: str) -> Path:
    return folder.trackers / f"{name}.json"


def main() -> int:
    folder, name = RunFolder(Path(sys.argv[1])), sys.argv[2]
    events = folder.trackers / f"{name}.jsonl"
    lock = folder.lock_of(name)
    while not lock.take(patience_s=5.0):
        append_line(events, {"event": "waiting", "for": lock.holder})
    os.chdir(folder.path)  # what a client drops in its working directory belongs to the run
    try:
        client = connect(name, folder)
        worker = Worker(folder, name, client)
        append_line(events, {"event": "started", "look": secrets.scrubbed(worker.open())})
        while not select.select([sys.stdin], [], [], POLL_S)[0]:
            worker.pump()
        worker.drain()
        todo = client.finish(failed=folder.state() in ("failed", "killed"))
    except Exception as problem:  # a foreign client may raise anything: one warning, and the points stay in the journal
        why = secrets.scrubbed(f"{type(problem).__name__}: {problem}").splitlines()[0]
        append_line(events, {"event": "failed", "why": why[:LONGEST_REASON]})
        print(secrets.scrubbed(traceback.format_exc()), file=sys.stderr, flush=True)
        os._exit(REPORTED)  # a client's exit handler may hang
    append_line(events, {"event": "finished", "todo": todo, "sent": worker.sent})
    return 0


if __name__ == "__main__":
    sys.exit(main())
