"""The report: its numbers are those of the runs, its page needs nothing else, and odd runs do not break it."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reported import made_run

from lib import report
from lib.journal.folder import RunFolder
from lib.report import differences, groups, outcomes, page

BASELINE = {"OPTIMIZER": "adamw", "PRUNING": "none"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "lenet5-12345"


class Page(HTMLParser):
    """What a page shows by section, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        self.links += [f"#{name}" for value in told.values() for name in re.findall(r"url\(#([^)]+)\)", value or "")]
        if tag == "section":
            self._open.append(told.get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in self._open:
            self.sections[name] = f"{self.sections.get(name, '')}{data}\n"


def built(runs: list[RunFolder], out: Path, **told: dict[str, str]) -> Page:
    terms = {"axes": {}, "baseline": BASELINE, "commands": {}, "failures": {}, **told}
    paths = report.build(runs, out, title="small & <true>", **terms)  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["index.html", "results.csv", "results.md"]
    return Page(paths[0].read_text())


def made_matrix(project: Path, seeds: int = 2, **told: bool) -> list[RunFolder]:
    """AdamW unpruned, and pruned to two sparsities; each seed moves all of them alike."""
    runs = []
    for seed in range(seeds):
        for place, sparsity in enumerate((None, 0.5, 0.9)):
            pruned = {"PRUNING": "none"} if sparsity is None else {"PRUNING": "magnitude", "TARGET_SPARSITY": sparsity}
            values = {"OPTIMIZER": "adamw", "SEED": seed, **pruned}
            accuracy = 0.95 + 0.01 * seed - 0.02 * place
            runs.append(made_run(project, f"run-{seed}-{place}", values, accuracy=accuracy, **told))
    return runs


def test_the_table_has_mean_and_deviation_over_seeds_the_best_first(project: Path, tmp_path: Path) -> None:
    shown = built(made_matrix(project), tmp_path).sections["lenet5-results"].split("\n")
    rows = [shown[place : place + 3] for place, text in enumerate(shown) if "none" in text or "magnitude" in text]
    assert rows == [
        ["none", "95.50 ± 0.71", "2"],
        ["magnitude · 0.5", "93.50 ± 0.71", "2"],
        ["magnitude · 0.9", "91.50 ± 0.71", "2"],
    ]


def test_differences_are_taken_seed_by_seed(project: Path, tmp_path: Path) -> None:
    """The seeds differ by a point, the differences by nothing: unpaired they would have a deviation."""
    shown = built(made_matrix(project), tmp_path).sections["lenet5-baseline"]
    assert "−2.00\n−2.00 to −2.00\n2\n" in shown and "−4.00\n−4.00 to −4.00\n2\n" in shown
    assert "There is no p under 6 seeds" in shown


def test_a_difference_that_rounds_to_zero_looks_the_same_on_both_sides() -> None:
    quality = outcomes.QUALITIES[0]
    assert {quality.text(value, sign=True) for value in (-1e-6, -0.0, 0.0, 1e-6)} == {"+0.00"}
    assert quality.text(-1e-6) == "0.00" and quality.text(-0.0031, sign=True) == "−0.31"


def test_from_six_seeds_on_there_is_a_p_with_holms_correction(project: Path, tmp_path: Path) -> None:
    shown = built(made_matrix(project, 6), tmp_path).sections["lenet5-baseline"]
    assert shown.count("0.031\n0.062\nopen") == 2 and "no p under" not in shown
    (tmp_path / "more").mkdir()
    shown = built(made_matrix(tmp_path / "more" / "p", 8), tmp_path).sections["lenet5-baseline"]
    assert shown.count("0.008\n0.016\nworse") == 2


def test_one_seed_each_ranks_nobody(project: Path, tmp_path: Path) -> None:
    runs = [
        made_run(project, f"run-{rate}", {"LEARNING_RATE": rate, "SEED": 0}, accuracy=accuracy)
        for rate, accuracy in ((0.1, 0.2), (0.01, 0.9))
    ]
    axes = {str(run.path): {"LEARNING_RATE": run.name.removeprefix("run-"), "SEED": "0"} for run in runs}
    shown = built(runs, tmp_path, axes=axes).sections["-results"]  # type: ignore[arg-type]
    assert shown.index("LEARNING_RATE=0.1\n20.00\n") < shown.index("LEARNING_RATE=0.01\n90.00\n")
    assert "the order says nothing" in shown


def test_each_is_compared_with_the_baseline_that_shares_its_other_axes(project: Path) -> None:
    runs = {
        (optimizer, rate): made_run(project, f"{optimizer}-{rate}", {})
        for optimizer in ("adamw", "sgd") for rate in ("0.1", "0.2")
    }  # fmt: skip
    found = [
        outcomes.read(run, axes={"OPTIMIZER": optimizer, "LEARNING_RATE": rate, "SEED": "0"}, command="", why="")
        for (optimizer, rate), run in runs.items()
    ]
    (part,) = groups.parts(found, BASELINE)  # PRUNING is no axis here, so that term is left aside
    assert [(one.group.label, one.baseline.label) for one in part.compared] == [
        ("sgd · LEARNING_RATE=0.1", "adamw · LEARNING_RATE=0.1"),
        ("sgd · LEARNING_RATE=0.2", "adamw · LEARNING_RATE=0.2"),
    ]


def test_the_front_weighs_quality_time_and_memory(project: Path, tmp_path: Path) -> None:
    costs = {"adamw": (0.9, 10, 100), "sgd": (0.8, 5, 100), "adam": (0.7, 10, 50), "adamwadv": (0.6, 10, 60)}
    runs = [
        made_run(project, name, {"OPTIMIZER": name, "SEED": 0}, accuracy=accuracy,
                 result={"total_time_s": time_s, "peak_memory_mib": memory})
        for name, (accuracy, time_s, memory) in costs.items()
    ]  # fmt: skip
    shown = built(runs, tmp_path).sections["lenet5-front"]
    assert "1. adamw\n90.00\n100\n10.0" in shown and "2. sgd" in shown and "3. adam\n" in shown
    assert "4. " not in shown


def test_every_picture_of_a_pruning_matrix_is_there(project: Path, tmp_path: Path) -> None:
    shown = built(made_matrix(project), tmp_path)
    assert shown.tags.count("svg") == 1 + 1 + 2  # sparsity, time, two learning curves
    assert "not pruned" in shown.sections["lenet5-sparsity"]
    assert {"magnitude · 0.5", "magnitude · 0.9", "none"} <= set(shown.sections["lenet5-curves"].split("\n"))


def test_the_page_needs_nothing_else_and_names_nothing_twice(project: Path, tmp_path: Path) -> None:
    shown = built(made_matrix(project, gpus=True), tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & set(shown.tags)
    assert [link for link in shown.links if not link.startswith("#")] == []
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    assert [name for name, count in Counter(shown.ids).items() if count > 1] == []
    text = (tmp_path / "index.html").read_text()
    assert not re.search(r"@import|https?://|#0000[abc]", text)  # nothing from elsewhere; no stand-in colour is left


def test_the_page_is_the_same_each_time(project: Path, tmp_path: Path) -> None:
    runs = made_matrix(project)
    built(runs, tmp_path / "a")
    built(runs, tmp_path / "b")
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_gpus_and_energy_are_those_of_the_journal(project: Path, tmp_path: Path) -> None:
    shown = built(made_matrix(project, gpus=True), tmp_path).sections
    assert "lenet5 · none\n4,000 ± 0\n80.0 ± 0.0\n7.0 ± 0.0\nGood\n600 ± 0\n61 ± 0\n" in shown["gpus"]
    assert "lenet5 · none\n10.00 ± 0.00\n0.5000 ± 0.0000\n6.0 ± 0.0\n" in shown["energy"]
    assert "run-0-0\n4,000\n" in shown["gpus"]


def test_windows_count_by_their_length_and_unknown_values_are_left_out() -> None:
    windows = [
        {"gpu_window_s": 10.0, "gpu_average_utilization": 90.0, "gpu_total_memory_used": 100.0, "gpu_cost": 1.0},
        {"gpu_window_s": 30.0, "gpu_average_utilization": 50.0, "gpu_total_memory_used": None, "gpu_cost": None},
        {"train_loss": 1.0},
    ]
    found = outcomes.monitored(windows)
    assert found == {"gpu_utilization": 60.0, "gpu_memory_mib": 100.0, "gpu_memory_peak_mib": 100.0, "gpu_cost": 1.0}


def test_energy_for_each_unit_is_that_of_all_units() -> None:
    windows = [
        {"gpu_window_s": 10.0, "gpu_energy_joules": 1000.0, "gpu_joules_per_image": 1.0},  # 1000 images
        {"gpu_window_s": 10.0, "gpu_energy_joules": 500.0, "gpu_joules_per_image": 5.0},  # 100, and the rest waiting
        {"gpu_window_s": 10.0, "gpu_energy_joules": None, "gpu_joules_per_image": None},
    ]
    assert outcomes.monitored(windows)["gpu_joules_per_unit"] == pytest.approx(1500 / 1100)


def test_without_gpus_it_says_how_to_measure(project: Path, tmp_path: Path) -> None:
    assert "GPU_MONITOR=y" in built(made_matrix(project), tmp_path).sections["gpus"]


def test_what_failed_is_told_with_its_reason_and_counted(project: Path, tmp_path: Path) -> None:
    runs = made_matrix(project)
    crashed = made_run(project, "crashed", {"OPTIMIZER": "adamw", "PRUNING": "none", "SEED": 2}, accuracy=None)
    killed = made_run(project, "killed", {"OPTIMIZER": "sgd", "PRUNING": "none", "SEED": 0}, accuracy=None)
    shown = built([*runs, crashed, killed], tmp_path, failures={str(crashed.path): "ValueError: <no> | good"})
    assert "crashed\nfailed\nValueError: <no> | good" in shown.sections["failures"]
    assert "killed\nkilled\n" in shown.sections["failures"]
    assert "2 of 3" in shown.sections["lenet5-results"]
    assert "| crashed | failed | ValueError: <no> \\| good |" in (tmp_path / "results.md").read_text()


def test_a_loss_that_is_no_number_is_told_and_spoils_no_mean(project: Path, tmp_path: Path) -> None:
    nan = {"val_loss": float("nan"), "val_accuracy": float("nan"), "best_val_loss": float("inf")}
    axes = {"OPTIMIZER": "adamw", "PRUNING": "none"}
    runs = [made_run(project, f"run-{seed}", {**axes, "SEED": seed}, accuracy=0.9) for seed in range(2)]
    runs.append(made_run(project, "diverged", {**axes, "SEED": 2}, result=nan))
    shown = built(runs, tmp_path).sections
    assert "all\n90.00 ± 0.00\n3, 1 diverged" in shown["lenet5-results"]
    assert "diverged\ndiverged\n" in shown["failures"]


@pytest.mark.parametrize("name", ["result.json", "config.json", "environment.json", "journal.jsonl"])
def test_a_corrupt_file_spoils_only_what_it_holds(project: Path, tmp_path: Path, name: str) -> None:
    runs = made_matrix(project)
    (runs[0].path / name).write_bytes(b'{"torn": [1, \xff')
    axes = {str(run.path): {"MODEL": "lenet5", "PRUNING": run.name[-1], "SEED": run.name[4]} for run in runs}
    shown = built(runs, tmp_path, axes=axes).sections["lenet5-results"]  # type: ignore[arg-type]
    assert "91.50 ± 0.71" in shown and ("1 of 2" in shown) == (name == "result.json")


def test_what_a_user_typed_stays_text(project: Path, tmp_path: Path) -> None:
    odd = '<script>alert("x")</script> $\\alpha$ | \n'
    run = made_run(project, "run", {"OPTIMIZER": "adamw", "SEED": 0})
    axes = {str(run.path): {"MODEL": "<i>m</i>", "AXIS": odd, "SEED": "0"}}
    other = made_run(project, "other", {"SEED": 0})
    axes[str(other.path)] = {**axes[str(run.path)], "AXIS": "plain"}
    shown = built([run, other], tmp_path, axes=axes, commands={str(run.path): odd})  # type: ignore[arg-type]
    assert "script" not in shown.tags and "i" in shown.tags  # of bars and legends
    assert odd.strip() in shown.sections["commands"]
    assert "<h1>small &amp; &lt;true&gt;</h1>" in (tmp_path / "index.html").read_text()
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert all(
        line.count(" | ") == lines[lines.index("## <i>m</i>") + 2].count(" | ") for line in lines if "AXIS=" in line
    )


def test_models_have_a_part_each(project: Path, tmp_path: Path) -> None:
    gpt = made_run(project, "gpt", {"MODEL": "gpt2", "SEED": 0}, result={"val_accuracy": None, "val_perplexity": 32.5})
    shown = built([*made_matrix(project), gpt], tmp_path).sections
    assert "Perplexity" in shown["gpt2-results"] and "32.50" in shown["gpt2-results"]
    assert "Accuracy" in shown["lenet5-results"]


def test_what_differs_is_told_with_the_axis_that_it_follows(project: Path) -> None:
    values = {
        "OPTIMIZER_SGD": True, "OPTIMIZER_ADAMW": False, "MOMENTUM": 0.9, "LEARNING_RATE": 0.1, "BATCH_SIZE": 32,
    }  # fmt: skip
    other = {"OPTIMIZER_SGD": False, "OPTIMIZER_ADAMW": True, "LEARNING_RATE": 0.004, "BATCH_SIZE": 32}
    runs = [
        made_run(
            project, f"{optimizer}-{seed}",
            {**of, "OPTIMIZER": optimizer, "SEED": seed, "N": seed, "TRACKER_GROUP": f"m-{seed}"},
        )
        for optimizer, of in (("sgd", values), ("adamw", other)) for seed in range(2)
    ]  # fmt: skip
    found = [outcomes.read(run, axes=None, command="", why="") for run in runs]
    told = Page(f"<section id=all>{differences.configuration(found, 50)}</section>").sections["all"]
    assert "LEARNING_RATE\nOPTIMIZER\n0.1 (sgd); 0.004 (adamw)" in told
    assert "MOMENTUM\nOPTIMIZER\n0.9 (sgd); – (adamw)" in told
    assert "N\n0 (2 runs); 1 (2 runs)" in told
    assert "OPTIMIZER_SGD" not in told and "TRACKER_GROUP" not in told and "BATCH_SIZE\n32" in told
    assert "torch\n2.13.0" in told


def test_a_large_matrix_still_fits_into_a_mail(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 40_000)
    runs = [
        made_run(project, f"run-{rate}-{seed}", {"LEARNING_RATE": rate, "SEED": seed}, accuracy=0.9 - rate / 1000)
        for rate in range(40) for seed in range(2)
    ]  # fmt: skip
    axes = {
        str(run.path): {"MODEL": "lenet5", "LEARNING_RATE": run.name.split("-")[1], "SEED": run.name[-1]}
        for run in runs
    }
    shown = built(runs, tmp_path, axes=axes).sections  # type: ignore[arg-type]
    assert (tmp_path / "index.html").stat().st_size < 40_000
    assert re.search("(30|15) of 40; results.csv has every run.", shown["lenet5-results"])
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 80


def test_the_csv_has_a_row_for_each_run_with_its_line(project: Path, tmp_path: Path) -> None:
    runs = made_matrix(project)
    built(runs, tmp_path, commands={str(runs[0].path): "python lenet5/train.py --config a b"})
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [run.name for run in runs]
    assert rows[1]["TARGET_SPARSITY"] == "0.5" and float(rows[1]["val_accuracy"]) == pytest.approx(0.93)
    assert rows[0]["command"] == "python lenet5/train.py --config a b" and rows[0]["state"] == "finished"


def test_every_run_is_exported_with_its_whole_configuration(project: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    runs = [*made_matrix(project), made_run(project, "odd", {"LEARNING_RATE": 1, "SEED": "text"}, accuracy=None)]
    paths = report.export_results(runs, tmp_path)
    table = parquet.read_table(paths[1]).to_pylist()
    assert [path.name for path in paths] == ["results.csv", "results.parquet"] and len(table) == len(runs)
    assert table[1]["LEARNING_RATE"] == 0.004 and table[-1]["LEARNING_RATE"] == 1.0 and table[-1]["SEED"] == "text"
    assert table[-1]["state"] == "killed" and table[-1]["val_accuracy"] is None
    told = json.loads((runs[1].path / "result.json").read_text())
    assert all(table[1][name] == value for name, value in told.items())
