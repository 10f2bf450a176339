"""The tracker of the user's own: by dotted name, in a process of its own, as every other tracker."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import names
from lib.errors import Refused
from lib.journal import folder, lines
from lib.track import check, settings
from lib.track.client import connect
from lib.track.run import Run
from lib.track.settings import PACKAGES, Settings

MODULE = '''
import json, os, pathlib
from accelerate.tracking import GeneralTracker

class Plain(GeneralTracker):
    name = "plain"
    requires_logging_directory = True

    def __init__(self, run_name, logging_dir):
        super().__init__()
        self.path = f"{logging_dir}/{run_name}.jsonl"

    @property
    def tracker(self):
        return self.path

    def keep(self, *row):
        with open(self.path, "a") as file:
            print(json.dumps([os.getpid(), *row]), file=file)

    def store_init_configuration(self, values):
        self.keep("config", values)

    def log(self, values, step=None, **options):
        self.keep(step, values, options)

    def finish(self):
        self.keep("finish")

class Readable(Plain):
    def stored(self):
        rows = [json.loads(line)[1:] for line in pathlib.Path(self.path).read_text().splitlines()]
        return [(step, name, value) for step, values, *_ in rows[1:-1] for name, value in values.items()]

class Other:
    """No GeneralTracker."""
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own, on Python's path here and in the trackers' processes."""
    (tmp_path / "mytrackers.py").write_text(MODULE)
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)


def trained(tmp_path: Path, dotted: str) -> folder.RunFolder:
    texts = {"config.json": '{"values": {"LEARNING_RATE": 0.1}}'}
    on = Settings(60, enable_custom=True, custom_class=dotted)
    with Run.create(tmp_path / "runs", "project", "run", texts=texts, trackers=on) as run:
        for step in range(20):
            run.log(check.curves(step), step, options={"custom": {"flag": step}} if step == 3 else None)
        run.finish({})
    return run.store


def test_a_class_by_dotted_name_gets_every_point_in_a_process_of_its_own(tmp_path: Path) -> None:
    store = trained(tmp_path, "mytrackers.Readable")
    assert check.compare("custom", store) == (120, [], 120)
    rows = [line.split(",", 1) for line in (store.path / "custom" / "run.jsonl").read_text().splitlines()]
    assert '"config"' in rows[0][1] and '"LEARNING_RATE": 0.1' in rows[0][1]
    assert rows[4][1].endswith('{"flag": 3}]')
    assert rows[-1][1] == ' "finish"]'


def test_a_class_that_can_not_be_read_back_is_said_to_be_so(tmp_path: Path) -> None:
    store = folder.RunFolder.create(tmp_path, "project", "run")
    settings.write(store.trackers, {"custom": {"class": "mytrackers:Plain"}})
    client = connect("custom", store)
    client.start(fresh=False)
    with pytest.raises(Refused, match="a custom tracker is not read back without it"):
        client.stored()


@pytest.mark.parametrize(
    ("dotted", "why"),
    [
        ("nosuch.Tracker", "there is no module 'nosuch' on Python's path"),  # found out here
        ("mytrackers.Nosuch", "can't be imported (AttributeError: "),  # found out in its own process
    ],
)
def test_a_wrong_dotted_name_is_one_line_and_the_points_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dotted: str, why: str
) -> None:
    store = trained(tmp_path, dotted)
    told = capsys.readouterr().err
    assert f"CUSTOM_CLASS={dotted}: {why}" in told and told.count("CUSTOM_CLASS") == 1
    assert len(lines.read(store.path)) == 20


def test_what_is_no_general_tracker_is_refused(tmp_path: Path) -> None:
    for dotted, why in (("mytrackers.Other", "not a subclass"), ("faulty.Tracker", "ZeroDivisionError")):
        store = folder.RunFolder.create(tmp_path, "project", "run")
        settings.write(store.trackers, {"custom": {"class": dotted}})
        with pytest.raises(Refused, match=f"CUSTOM_CLASS={dotted}: .*{why}"):
            connect("custom", store)


def test_what_is_missing_is_said_of_the_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.missing("custom", {"class": "mytrackers.Plain"}) is None
    assert settings.missing("custom", {"class": ""}) == "CUSTOM_CLASS=: there is no module '' on Python's path"
    assert settings.missing("custom") is None


def test_all_trackers_are_those_that_come_in_packages() -> None:
    known = list(PACKAGES)
    assert "custom" not in names.trackers("all", known, available=lambda _: True)
    assert "custom" in names.trackers("all,custom", known, available=lambda _: True)
