"""Axes, combinations and ids: what the matrix is, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from configuring import copied_to

from lib import kconf
from lib.kconf.verbs import given
from lib.matrix import axes, points, verdict
from lib.matrix.axes import Settings, rule
from lib.matrix.points import Front, Product, identity
from lib.options import ROOT, Faults

EXCLUDED = "OPTIMIZER=adamwprune PRUNING=magnitude,movement"
ALL = ("sgd", "adam", "adamw", "adamwadv", "adamwspam", "adamwprune")
PRUNINGS = ("none", "magnitude", "movement", "state")


def settings(**texts: str) -> Settings:
    names = ("models", "optimizers", "prunings", "sparsities", "seeds", "axes", "exclude", "baseline")
    return Settings(**{f"matrix_{name}": texts.get(name, "") for name in names})


def product(*, excluded: str = "", spare: tuple[str, ...] = (), typed: tuple[str, ...] = (), **varied: str) -> Product:
    asked = {name: tuple(text.split(",")) for name, text in varied.items()}
    rules = axes.rules(excluded, ["OPTIMIZER", "PRUNING", "MODEL", "SEED"], "MATRIX_EXCLUDE")
    return Front(ROOT, None, given({}, typed)).product(asked, rules, spare)


def test_lists_are_values_or_spans_each_once() -> None:
    found = axes.listed(settings(optimizers="sgd, adam,sgd", seeds="0:3,7,1", axes="BATCH_SIZE=8:25:8 COMPILE=y,n"))
    assert found == {
        "OPTIMIZER": ("sgd", "adam"), "SEED": ("0", "1", "2", "7"),
        "BATCH_SIZE": ("8", "16", "24"), "COMPILE": ("y", "n"),
    }  # fmt: skip


def test_axes_of_the_command_line_go_before_the_configured_ones() -> None:
    assert axes.listed(settings(axes="MOMENTUM=0.9", seeds="0:9"), "MOMENTUM=0.5 SEED=3") == {
        "SEED": ("3",), "MOMENTUM": ("0.5",),
    }  # fmt: skip


def test_all_that_is_malformed_is_told_at_once() -> None:
    with pytest.raises(Faults) as faults:
        axes.listed(settings(seeds="3:1", axes="MOMENTUM"), "SEED_=1:2:0")
    assert len(faults.value.lines) == 3


def test_a_rule_holds_by_value_by_number_and_by_pattern() -> None:
    known = ["OPTIMIZER", "TARGET_SPARSITY"]
    values = {"OPTIMIZER": "adamw", "TARGET_SPARSITY": "0.5"}
    assert rule("optimizer=sgd,adam* TARGET_SPARSITY=0.50", known, "FILTER").holds(values)
    assert not rule("TARGET_SPARSITY=0.9", known, "FILTER").holds(values)
    assert not rule("TARGET_SPARSITY=*", known, "FILTER").holds({"OPTIMIZER": "sgd"})
    assert rule("adamw s1", known, "FILTER", words=True).holds(values, "lenet5_adamw_s1-0")
    with pytest.raises(Faults, match="did you mean OPTIMIZER"):
        rule("OPTIMISER=sgd", known, "FILTER")


def test_the_full_matrix_has_the_cells_that_make_sense() -> None:
    asked = {"OPTIMIZER": ",".join(ALL), "PRUNING": ",".join(PRUNINGS), "TARGET_SPARSITY": "0.5,0.9", "SEED": "0,1,2"}
    found = product(excluded=EXCLUDED, **asked)
    assert len(found.cells) == (5 * (1 + 2 * 2) + (1 + 2)) * 3 == 84 and found.excluded == 12 and found.equal == 0
    assert [cell.axes["SEED"] for cell in found.cells] == ["0"] * 28 + ["1"] * 28 + ["2"] * 28
    for cell in found.cells:
        assert (cell.axes["PRUNING"] == "state") <= (cell.axes["OPTIMIZER"] == "adamwprune")
        assert ("TARGET_SPARSITY" in cell.axes) == (cell.axes["PRUNING"] != "none")


def test_ids_do_not_depend_on_the_order_or_on_what_else_is_varied() -> None:
    one = product(OPTIMIZER="sgd,adam", SEED="0,1", BATCH_SIZE="8,16")
    other = product(BATCH_SIZE="16,8", SEED="1,0", OPTIMIZER="adam,sgd")
    assert {cell.id for cell in one.cells} == {cell.id for cell in other.cells} and len(one.cells) == 8
    assert {cell.name for cell in product(OPTIMIZER="sgd", SEED="1", typed=("BATCH_SIZE=8",)).cells} < {
        cell.name for cell in one.cells
    }


def test_near_sparsities_are_cells_of_their_own() -> None:
    """The ancestor's names came from int(x * 100): 0.99, 0.995 and 0.999 were one."""
    found = product(PRUNING="magnitude", TARGET_SPARSITY="0.57,0.99,0.995,0.999,0.56", SEED="0")
    assert len({cell.name for cell in found.cells}) == len({cell.id for cell in found.cells}) == 5
    assert "magnitude0.995" in found.cells[2].name


def test_values_that_are_equal_are_one_cell() -> None:
    found = product(LEARNING_RATE="1e-3,0.001,0.0010,3e-4", SEED="0")
    assert len(found.cells) == 2 and found.equal == 2


def test_names_and_the_matrix_itself_are_no_part_of_an_id() -> None:
    plain = product(SEED="0").cells[0]
    named = product(SEED="0", typed=("TRACKER_PROJECT=other", "TRACKER_RUN_NAME=x", "MATRIX_SEEDS=0:9")).cells[0]
    assert plain.id == named.id != product(SEED="0", typed=("NUM_EPOCHS=1",)).cells[0].id


def test_an_id_stands_for_what_the_front_end_resolves() -> None:
    """Also of cells that never went through it one by one."""
    for cell in product(OPTIMIZER="adamwprune", PRUNING="state", TARGET_SPARSITY="0.5,0.9", SEED="0,4").cells:
        values = Front(ROOT, None).resolved(cell.axes).values
        assert identity(values).of({}) == cell.id and points.work(values).of({}) == cell.work
        assert {name: points.shown(values[name]) for name in cell.axes} == cell.axes


def test_several_models_are_one_matrix() -> None:
    """In the ancestor's, resnet50 and gpt2 became lenet5 without a word."""
    found = product(MODEL="resnet50,gpt2", OPTIMIZER="sgd,adam", SEED="0")
    assert [(cell.model, cell.axes["OPTIMIZER"]) for cell in found.cells] == [
        ("resnet50", "sgd"), ("resnet50", "adam"), ("gpt2", "sgd"), ("gpt2", "adam"),
    ]  # fmt: skip


def test_an_axis_is_varied_only_where_it_is_there() -> None:
    found = product(OPTIMIZER="sgd,adam", MOMENTUM="0.8,0.9", SEED="0")
    assert [cell.axes.get("MOMENTUM") for cell in found.cells] == ["0.8", "0.9", None]


@pytest.mark.parametrize(
    ("varied", "line"),
    [
        (
            {"PRUNING": "state", "OPTIMIZER": "sgd"},
            "matrix: PRUNING=state: needs OPTIMIZER_ADAMWPRUNE (now OPTIMIZER=sgd)",
        ),
        ({"OPTIMIZER": "adamm"}, "matrix: OPTIMIZER=adamm: unknown value; did you mean adam?"),
        ({"OPTIMISER": "adam"}, "matrix: OPTIMISER: no symbol to vary; did you mean OPTIMIZER?"),
        ({"BATCH_SIZE": "8,99999999"}, "matrix: BATCH_SIZE=99999999: outside the range [1, 65536]"),
        ({"LEARNING_RATE": "fast"}, "matrix: LEARNING_RATE=fast: expected float"),
        ({"GPT2_BLOCK_SIZE": "64"}, "matrix: GPT2_BLOCK_SIZE=64: needs MODEL_GPT2 (now MODEL=lenet5)"),
    ],
)
def test_what_can_never_be_is_refused_before_anything_starts(varied: dict[str, str], line: str) -> None:
    with pytest.raises(Faults) as faults:
        product(**varied)
    assert any(told.startswith(line) for told in faults.value.lines), faults.value.lines


def test_defaults_that_do_not_apply_are_notes() -> None:
    found = product(OPTIMIZER="sgd", PRUNING="none,state", TARGET_SPARSITY="0.5", spare=("PRUNING", "TARGET_SPARSITY"))
    assert len(found.cells) == 1 and len(found.notes) == 2 and "PRUNING=state" in found.notes[0]


def test_every_symbol_of_the_matrix_is_known_to_the_front_end(tmp_path: Path) -> None:
    root = copied_to(tmp_path)
    made = kconf.resolve(root, base=None, assignments=[])
    assert {f"MATRIX_{name}" for name in ("OPTIMIZERS", "SEEDS", "TIMEOUT_S", "JOBS_PER_GPU")} <= made.values.keys()


@pytest.mark.parametrize(
    ("status", "said", "kind", "why"),
    [
        (1, "Traceback (most recent call last):\n  File x\nValueError: no\nat all\n", "error", "ValueError: no"),
        (2, "note: a\nerror: GPUS=3: no\nerror: and more\n", "error", "GPUS=3: no; and more"),
        (1, "Traceback (most recent call last):\n  File x\nMemoryError\n", "memory", "MemoryError"),
        (2, "error: out of memory (CUDA). Lower BATCH_SIZE\n", "memory", "out of memory (CUDA). Lower BATCH_SIZE"),
        (1, '  File "x.py", line 1\n    x y\nSyntaxError: invalid syntax\n', "error", "SyntaxError: invalid syntax"),
        (-9, "", "killed", "ended by SIGKILL"),
        (143, "", "killed", "ended by SIGTERM"),
        (7, "", "error", "exit status 7, and nothing said"),
        (0, "", "result", "exit status 0, but no result.json"),
    ],
)
def test_the_reason_of_a_failure_is_the_trainers_own_word(status: int, said: str, kind: str, why: str) -> None:
    assert verdict.of(status, said, has_result=False, corrupt=False, oom_killed=False) == (kind, why)


def test_a_kill_by_the_kernel_for_its_memory_is_no_mere_kill() -> None:
    found = verdict.of(-9, "", has_result=False, corrupt=False, oom_killed=True)
    assert found.kind == "memory" and "kernel" in found.why


def test_a_cell_with_a_result_is_done_however_its_trainer_ended_after_it() -> None:
    assert verdict.of(-9, "", has_result=True, corrupt=False, oom_killed=False) == ("done", "")
