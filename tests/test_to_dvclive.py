"""DVCLive: what is logged is in its tables, once, and no repository around them is touched."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import parity
import pytest

from lib.track.client import connect

pytest.importorskip("dvclive")
serialize = pytest.importorskip("dvclive.serialize")
utils = pytest.importorskip("dvclive.utils")


def test_every_value_reads_back_with_the_configuration(tmp_path: Path) -> None:
    store = parity.life(tmp_path, "dvclive")
    odd = parity.odd_ones("dvclive", store)
    assert math.isnan(float(str(odd.pop("not_a_number")[0])))
    assert odd == {
        "whole": [7], "yes": [1], "no": [0], "infinite": [math.inf], "minus_infinite": [-math.inf],
        "word": ["warm-up"], "third": [1 / 3, 2 / 3], "tiny": [5e-324], "huge": [1.7976931348623157e308],
    }  # fmt: skip
    assert serialize.load_yaml(store.path / "dvclive/params.yaml")["LEARNING_RATE"] == 0.004
    latest = json.loads((store.path / "dvclive/metrics.json").read_text())
    assert (latest["third"], latest["infinite"], latest["step"]) == (1.0, "inf", 99)


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "dvclive")


def test_a_git_repository_around_it_stays_as_it_is(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / ".gitignore").write_text("runs/\n.gitignore\n")
    parity.failed(tmp_path, "dvclive")
    assert subprocess.run([*git, "status", "--short"], check=True, capture_output=True, text=True).stdout == ""


def test_odd_names_stay_in_the_folder_and_read_back_and_images_are_beside_them(tmp_path: Path) -> None:
    names = ["loss", "loss/a", "../../out", str(tmp_path / "absolute"), "step", "val/step", "%2f", "a b.c", "é", "/"]
    with parity.create(tmp_path, "dvclive") as run:
        (run.store.path / "media").mkdir()
        (run.store.path / "media/0.png").write_bytes(parity.PNG)
        run.journal.append({}, 2, media={"kind": "image", "name": "samples", "file": "media/0.png"})
        run.log(dict.fromkeys(names, 0.5), 7)
        run.finish({})
    assert sorted(connect("dvclive", run.store).stored()) == sorted((7, name, 0.5) for name in names)
    assert (run.store.path / "dvclive/plots/images/samples/2.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (row,) = utils.parse_tsv(run.store.path / "dvclive/plots/metrics/loss.tsv")
    assert row["step"] == "7" and abs(int(row["timestamp"]) / 1000 - run.store.path.stat().st_mtime) < 600
