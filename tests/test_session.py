"""Which run a start goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import session
from lib.errors import Refused
from lib.journal.folder import RunFolder
from lib.options import Record

CONFIGURATION = json.dumps({"provenance": {"hash": "0abc"}, "values": {}})


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that was killed while it trained on data 1."""
    monkeypatch.setattr(session, "RUNS", tmp_path)
    store = RunFolder.create(tmp_path, "p", "run")
    store.keep({"config.json": CONFIGURATION})
    store.record("start")
    store.record("data", sha256="1")
    return store


def asked(resume: str) -> Record:
    return Record("lenet5", "adamw", "p", "", "0abc", resume, "", {"config.json": CONFIGURATION})


def test_a_run_whose_data_have_changed_is_not_gone_on_with(
    begun: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session._earlier(asked("auto"), "1") == begun
    assert session._earlier(asked("no"), "1") is None
    assert session._earlier(asked("auto"), "2") is None, "a new run begins"
    assert "run is left alone: the data are others than it began with" in capsys.readouterr().err
    with pytest.raises(Refused, match="the data are others than it began with"):
        session._earlier(asked(str(begun.path)), "2")
