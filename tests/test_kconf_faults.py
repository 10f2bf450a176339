"""Whatever can't be taken is told: every line, all at once, in one line each, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from configuring import configure, copied_to, loaded, made, refused, resolved, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib import kconf
from lib.kconf.tree import bounds_of, plain_prompt
from lib.options import Faults

OLD = ("# the user's own\nCONFIG_SEED=7\n", "config = 'old'\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


# --- faults ---
TYPED = [
    ("LEARNIN_RATE=1", "command line: LEARNIN_RATE=1: unknown symbol; did you mean LEARNING_RATE?"),
    ("LEARNING_RATE=20", "command line: LEARNING_RATE=20: outside (0, 10]"),
    ("LEARNING_RATE=0", "command line: LEARNING_RATE=0: outside (0, 10]"),
    ("LEARNING_RATE=fast", "command line: LEARNING_RATE=fast: expected float"),
    ("LEARNING_RATE=nan", "command line: LEARNING_RATE=nan: expected float"),
    ("LEARNING_RATE=inf", "command line: LEARNING_RATE=inf: expected float"),
    ("LEARNING_RATE=1e999", "command line: LEARNING_RATE=1e999: outside (0, 10]"),
    ("MOMENTUM=1", "command line: MOMENTUM=1: outside [0, 1)"),
    ("EVAL_SAMPLES=0", "command line: EVAL_SAMPLES=0: outside the range [1, 1000000]"),
    ("BATCH_SIZE=1e3", "command line: BATCH_SIZE=1e3: expected int"),
    ("BATCH_SIZE=", "command line: BATCH_SIZE=: expected int"),
    ("WANDB_ENTITY=me", "command line: WANDB_ENTITY=me: needs ENABLE_WANDB (now ENABLE_WANDB=n)"),
    ("WANDB_ENTITY=", "command line: WANDB_ENTITY=: needs ENABLE_WANDB (now ENABLE_WANDB=n)"),
    ("MOMENTUM=0.5", "command line: MOMENTUM=0.5: needs OPTIMIZER_SGD (now OPTIMIZER=adamw)"),
    ("ENABLE_WANDB=yes", "command line: ENABLE_WANDB=yes: expected y or n"),
    ("MODEL=gtp2", "command line: MODEL=gtp2: unknown value; did you mean gpt2? (known: lenet5, resnet50, gpt2)"),
    ("DATASET=stdlib", "command line: DATASET=stdlib: needs MODEL_GPT2 (now MODEL=lenet5)"),
    (
        "TRACKER=wandbb",
        "TRACKER=wandbb: unknown tracker 'wandbb'; did you mean wandb? (known: trackio, wandb, tensorboard, "
        "mlflow, aim, comet_ml, clearml, dvclive, swanlab, goodseed, custom)",
    ),
    ("DEFCONFIG=lenet5-adma", "no defconfig 'lenet5-adma'; close: lenet5-adam, lenet5-adamw; see make list-defconfigs"),
    ("TRACKER_PROJECT=a\nb", "command line: TRACKER_PROJECT=a\\nb: control characters cannot be stored"),
    (
        "OPTIMIZER_ADAMW=n",
        "command line: OPTIMIZER_ADAMW=n: one member of a choice is always on; set another one to y instead",
    ),
]


@pytest.mark.parametrize(("word", "line"), TYPED, ids=[word for word, _ in TYPED])
def test_a_slip_on_the_command_line_is_one_line(checkout: Path, word: str, line: str) -> None:
    made(checkout, "SEED=3")
    (fault,) = refused(checkout, word)
    assert fault == line or fault.startswith(line.partition("; see")[0])


def test_two_members_of_a_choice_conflict(checkout: Path) -> None:
    assert refused(checkout, "MODEL_GPT2=y", "MODEL_RESNET50=y") == [
        "command line: MODEL_RESNET50=y: conflicts with MODEL_GPT2=y at command line"
    ]
    assert refused(checkout, "TRACKER=trackio", "ENABLE_WANDB=y") == [
        "command line: ENABLE_WANDB=y: conflicts with TRACKER=trackio at command line"
    ]
    assert made(checkout, "MODEL_GPT2=y", "MODEL=gpt2").MODEL == "gpt2"  # says the same twice


def test_a_derived_symbol_says_where_it_is_defined(checkout: Path) -> None:
    with (checkout / "Kconfig").open("a") as file:
        file.write("\nconfig TWICE_DERIVED\n\tint\n\tdefault 7\n")
    number = (checkout / "Kconfig").read_text().split("\n").index("config TWICE_DERIVED") + 1
    assert refused(checkout, "TWICE_DERIVED=8") == [
        f"command line: TWICE_DERIVED=8: derived (no prompt), cannot be set. Defined at Kconfig:{number}"
    ]
    made(checkout)
    assert resolved(checkout).values["TWICE_DERIVED"] == 7  # .config holds it, and may


EIGHT = """\
CONFIG_NUM_EPOCSH=3
CONFIG_EVAL_SAMPLES=99999999
CONFIG_FIXED=3
CONFIG_SEED=3 # x
garbage
CONFIG_MOMENTUM="0.8"
CONFIG_ENABLE_TRACKIO=yes
CONFIG_LEARNING_RATE=0.1
CONFIG_BATCH_SIZE=64
"""


def test_a_defconfig_with_eight_faults_is_told_all_eight(checkout: Path) -> None:
    with (checkout / "Kconfig").open("a") as file:
        file.write("\nconfig FIXED\n\tint\n\tdefault 7\n")
    write(checkout / "lenet5" / "defconfigs" / "bad", EIGHT)
    write(checkout / ".config", OLD[0])
    write(checkout / "config.py", OLD[1])
    told = configure(checkout, "defconfig", "DEFCONFIG=bad")
    lines = told.stderr.splitlines()
    assert (told.returncode, told.stdout) == (2, "")
    assert all(line.startswith("error: lenet5/defconfigs/bad:") for line in lines)
    assert sorted(line.split(":")[2] for line in lines) == list("12345678")
    by_number = {line.split(":")[2]: line.split(":", 3)[3].strip() for line in lines}
    assert by_number["1"] == "unknown symbol NUM_EPOCSH; did you mean NUM_EPOCHS?"
    assert by_number["2"] == "EVAL_SAMPLES=99999999: outside the range [1, 1000000]"
    assert by_number["3"].startswith("FIXED=3: derived (no prompt), cannot be set. Defined at Kconfig:")
    assert by_number["4"] == "SEED=3 # x: expected int"
    assert by_number["5"] == "malformed line 'garbage'"
    assert by_number["6"] == "MOMENTUM=0.8: needs OPTIMIZER_SGD (now OPTIMIZER=adamw)"
    assert by_number["7"] == "ENABLE_TRACKIO=yes: expected y or n"
    assert by_number["8"] == 'LEARNING_RATE=0.1: expected a string in double quotes: "0.1"'
    assert ((checkout / ".config").read_text(), (checkout / "config.py").read_text()) == OLD
    assert not (checkout / ".config.old").exists()


def test_faults_of_all_sources_come_at_once(checkout: Path) -> None:
    write(checkout / "defconfigs" / "bad.config", "CONFIG_SEED=x\n")
    lines = refused(checkout, "DEFCONFIG=quickstart+bad", "TRACKER=wandbb", "BATCH_SIZE=1e3", "LEARNIN_RATE=1")
    assert len(lines) == 4


def test_a_line_without_its_prefix_is_told_the_right_one(checkout: Path) -> None:
    write(checkout / "defconfigs" / "bad", "SEED=3\n")
    assert refused(checkout, "DEFCONFIG=bad") == [
        "defconfigs/bad:1: malformed line 'SEED=3'; did you mean CONFIG_SEED=3?"
    ]


def test_a_place_that_cannot_be_written_is_one_line(checkout: Path) -> None:
    (line,) = refused(checkout, "O=Kconfig/below")
    assert "cannot be written" in line


def test_a_broken_kconfig_file_is_one_line(checkout: Path) -> None:
    with (checkout / "Kconfig").open("a") as file:
        file.write("\nconfigg NOPE\n")
    told = configure(checkout, "defconfig")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "Kconfig:" in told.stderr


# --- floats and noise ---
@pytest.mark.parametrize(
    ("annotation", "inside", "outside", "shown"),
    [
        ("[float 0< <=10]", [1e-9, 10.0], [0.0, 10.1, -1.0], "(0, 10]"),
        ("[float 0<= <1]", [0.0, 0.99], [1.0, -1e-9], "[0, 1)"),
        ("[float -1<]", [0.0, 1e300], [-1.0], "(-1, inf)"),
        ("[float <=1e-3]", [-1e300, 1e-3], [0.1], "(-inf, 0.001]"),
        ("[float]", [0.0, -5.0], [float("inf"), float("nan")], "(-inf, inf)"),
    ],
)
def test_bounds_are_read_from_the_prompt(
    annotation: str, inside: list[float], outside: list[float], shown: str
) -> None:
    bounds = bounds_of(f"Learning rate {annotation}")
    assert bounds is not None and str(bounds) == shown
    assert all(number in bounds for number in inside) and not any(number in bounds for number in outside)
    assert plain_prompt(f"Learning rate {annotation}") == "Learning rate"


def test_a_prompt_without_annotation_is_no_float() -> None:
    assert bounds_of("Warm-up [steps]") is None and plain_prompt("Warm-up [steps]") == "Warm-up [steps]"


LINE = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.builds(
        "CONFIG_{}={}".format,
        st.sampled_from(
            ["SEED", "MODEL", "MODEL_GPT2", "OPTIMIZER_SGD", "MOMENTUM", "GPT2_SIZE", "ENABLE_WANDB", "NOPE"]
        ),
        st.sampled_from(["y", "n", "0", "-1", '"sgd"', '"gpt2"', '"0.5"', '"', "", "9" * 30, '"\\"', "0x1"]),
    ),
    st.builds("# CONFIG_{} is not set".format, st.sampled_from(["MODEL_LENET5", "SEED", "ENABLE_WANDB", "NOPE"])),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINE, max_size=6),
    word=st.sampled_from(["SEED=1", "MODEL=gpt2", "TRACKER=both", "MOMENTUM=0.5", "X=1"]),
)
def test_any_dotconfig_is_taken_or_refused_and_olddefconfig_mends_it(
    checkout: Path, lines: list[str], word: str
) -> None:
    write(checkout / ".config", "\n".join(lines))
    try:
        resolved(checkout, word)
    except Faults as faults:
        assert faults.lines
    assert kconf.configure(checkout, {}, ["olddefconfig"]) == 0
    assert resolved(checkout).values == loaded(checkout).asdict()
