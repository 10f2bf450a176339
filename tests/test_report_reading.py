"""docs/reading-results.md: each of its one-liners reads every run, also beside one that was killed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reported import made_run

from lib import report
from lib.journal import lines
from lib.options import ROOT

PAGE = (ROOT / "docs" / "reading-results.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished runs of each of two models, and a killed one whose last line is torn."""
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "runs" / "lenet5-12345"
    runs = [made_run(project, f"run-{n}", {"OPTIMIZER": "adamw", "PRUNING": "none", "SEED": n}) for n in range(2)]
    perplexed = {"val_accuracy": None, "val_perplexity": 30.0}
    runs += [
        made_run(
            tmp_path / "runs" / "gpt2-12345", f"run-{n}", {"OPTIMIZER": "sgd", "PRUNING": "none"}, result=perplexed
        )
        for n in range(2)
    ]
    runs.append(made_run(project, "killed", {"OPTIMIZER": "adam", "PRUNING": "none", "SEED": 2}, accuracy=None))
    with (runs[-1].path / lines.NAME).open("a") as journal:
        journal.write('{"seq":99,"time":1.0,"st')
    report.export_results(runs, tmp_path / "runs")
    return tmp_path


def test_the_page_has_lines_of_both() -> None:
    assert sum("duckdb" in block for block in BLOCKS) == 4 and sum("pandas" in block for block in BLOCKS) == 2


@pytest.mark.parametrize("block", [block for block in BLOCKS if "duckdb" in block])
def test_a_line_of_duckdb_reads_every_run(here: Path, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "reading-results.md", "exec"), {})
    told = capsys.readouterr().out
    assert "adamw" in told or "run-1" in told


def test_a_line_of_pandas_reads_every_result_with_its_configuration(here: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[0], "reading-results.md", "exec"), names)
    table = names["results"]
    assert sorted(table["OPTIMIZER"]) == ["adamw", "adamw", "sgd", "sgd"]  # type: ignore[index]
    assert table["best_val_loss"].tolist() == [0.03] * 4  # type: ignore[index]


def test_a_line_of_pandas_reads_every_journal(here: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[1], "reading-results.md", "exec"), names)
    table = names["logged"]
    assert len(table) == 5 * 8 and table["train_loss"].count() == 5 * 4  # type: ignore[arg-type,index]
    assert set(table["run"]) == {"run-0", "run-1", "killed"}  # type: ignore[index]
