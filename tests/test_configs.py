"""checkconfig: it finds nothing in this repository, and each defect that is planted in a copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from configuring import CODE, configure, copied_to, write

from lib import kconf, options
from lib.kconf import defconfigs, readers
from lib.kconf.tree import Tree
from lib.kconf.verbs import MAKE_VARIABLES, given
from lib.options import ROOT, Faults

MODELS = sorted(path.parent.name for path in ROOT.glob("*/train.py") if path.parent.name != "scripts")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout", *CODE)


def findings(root: Path) -> list[str]:
    try:
        kconf.configure(root, {}, ["checkconfig"])
    except Faults as faults:
        return faults.lines
    return []


def test_this_repository_is_without_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert findings(ROOT) == []
    ready = defconfigs.listing(ROOT)
    fragments = [item for item in ready if item.name.endswith(".config")]
    counts = (len(ready) - len(fragments), len(fragments), len(Tree(ROOT).symbols))
    said = "checked {} defconfigs, {} fragments, {} symbols: nothing lost, nothing unread\n"
    assert capsys.readouterr().out == said.format(*counts)


def test_checkconfig_is_a_command_that_fails_when_it_finds_something(checkout: Path) -> None:
    assert configure(checkout, "checkconfig").returncode == 0
    write(checkout / "defconfigs" / "planted", "CONFIG_SEED=0\nCONFIG_NOPE=1\n")
    told = configure(checkout, "checkconfig")
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 2)
    assert all(line.startswith("error: defconfigs/planted:") for line in told.stderr.splitlines())


def test_there_are_defconfigs_of_every_model() -> None:
    ready = defconfigs.listing(ROOT)
    assert {*MODELS, ROOT.name} <= {item.path.parent.parent.name for item in ready}
    assert {"quickstart", "gpt2-finewebedu-a10gx4"} <= {item.name for item in ready}


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_of_every_model_are_valid(model: str) -> None:
    chosen = kconf.resolve(ROOT, base=None, assignments=given({}, [f"MODEL={model}"]))
    assert (chosen.values["MODEL"], chosen.notes) == (model, [])


def test_every_variable_that_the_makefile_documents_is_makes_own() -> None:
    documented = re.findall(r"\[([A-Z]+)=", (ROOT / "Makefile").read_text())
    assert {*documented, "PYTHON", "VENV", "V", "O", "DEFCONFIG", "RESUME", "RUN", "YES"} <= MAKE_VARIABLES.keys()


# --- defects in the Kconfig files ---


def symbol(name: str, *properties: str, told: bool = True) -> str:
    """A symbol at the end of the root's Kconfig."""
    lines = [f"config {name}", *properties, *(["help", "  Planted."] if told else [])]
    return "\n" + "\n\t".join(lines) + "\n"


PLANTED = {
    "a float without annotation": (
        symbol("PLANTED", 'string "P"', 'default "1e-4"'),
        ["PLANTED: default 1e-4 is a real number: the prompt needs an annotation such as [float 0<= <1]"],
    ),
    "an annotation that is none": (
        symbol("PLANTED", 'string "P [float 0 to 1]"', 'default "0.5"'),
        ["PLANTED: the annotation in 'P [float 0 to 1]' is not understood; write it at the end, as [float 0< <=1]"],
    ),
    "a float out of its bounds in a case that no model meets": (
        symbol("PLANTED", 'string "P [float 0< <=1]"', 'default "2.0" if OPTIMIZER_SGD', 'default "0.5"'),
        ["PLANTED: default 2.0: outside (0, 1]"],
    ),
    "a float out of its bounds for one model": (
        symbol("PLANTED", 'string "P [float 0.001<]"', "default LEARNING_RATE"),
        ["PLANTED: default 0.001 with MODEL=resnet50: outside (0.001, inf)"],
    ),
    "a number out of its range": (
        symbol("PLANTED", 'int "P"', "default 9", "range 0 5"),
        ["PLANTED: default 9: outside the range [0, 5]"],
    ),
    "a number out of its range for one model": (
        symbol("PLANTED", 'int "P"', "default 9", "range 0 5 if MODEL_GPT2", "range 0 10"),
        ["default value 9 on PLANTED"],
    ),
    "a number without a default": (
        symbol("PLANTED", 'int "P"'),
        ["PLANTED: default none with MODEL=lenet5: expected int"],
    ),
    "a default of another type": (
        symbol("PLANTED", 'hex "P"', "default 10"),
        ["PLANTED: default 10: expected hex"],
    ),
    "what kconfiglib warns of": (
        symbol("PLANTED", 'bool "P"', "range 0 1"),
        ["has ranges, but is not int or hex"],
    ),
    "a condition that nobody defines": (
        symbol("PLANTED", 'bool "P"', "depends on OPTIMIZER_SGDD"),
        ["OPTIMIZER_SGDD is used here and defined nowhere; did you mean OPTIMIZER_SGD?"],
    ),
    "a variable of make's": (
        symbol("YES", 'bool "P"'),
        ["YES is a variable of make's own. Choose another name"],
    ),
    "a variable of the Makefile's": (
        symbol("LYING_READY", 'bool "P"'),
        ["LYING_READY is a variable of make's own. Choose another name"],
    ),
    "TRACKER": (
        symbol("TRACKER", 'bool "P"'),
        [
            "TRACKER is a variable of make's own. Choose another name",
            *(f"--tracker of {model}/train.py would belong to train.py and to TRACKER. Rename one" for model in MODELS),
        ],
    ),
    "a name in lower case": (
        symbol("planted", 'bool "P"'),
        [
            "planted: a name is of upper-case letters, digits and underscores",
            "planted: no code and no other symbol reads it",
        ],
    ),
    "a name that opts has": (
        symbol("GPT2_HASH", 'bool "P"'),
        ["GPT2_HASH: opts.hash is something else already. Choose another name"],
    ),
    "two symbols with one flag": (
        symbol("GPT2_SEED", 'int "P"', "default 1"),
        ["--seed of gpt2/train.py would belong to SEED and to GPT2_SEED. Rename one"],
    ),
    "a flag that switches another one off": (
        symbol("GPT2_NO_COMPRESSION", 'bool "P"') + symbol("COMPRESSION", 'bool "P"'),
        ["--no-compression of gpt2/train.py would belong to GPT2_NO_COMPRESSION and to COMPRESSION. Rename one"],
    ),
    "a flag of train.py's own": (
        symbol("RESNET50_HELP", 'bool "P"'),
        ["--help of resnet50/train.py would belong to train.py and to RESNET50_HELP. Rename one"],
    ),
    "a symbol without help": (symbol("PLANTED", 'bool "P"', told=False), ["PLANTED has no help text"]),
    "a choice without help": (
        "\nchoice\n\tprompt \"Colour\"\n" + symbol("PLANTED", 'bool "red"', told=False) + "\nendchoice\n",
        ["the choice 'Colour' has no help text"],
    ),
    "a tracker elsewhere": (
        symbol("ENABLE_SIGOPT", 'bool "P"'),
        ["ENABLE_SIGOPT switches a tracker on; it belongs into the menu 'Experiment Tracking'"],
    ),
    "a tracker without code": (
        '\nmenu "Experiment Tracking"\n' + symbol("ENABLE_SIGOPT", 'bool "P"') + "\nendmenu\n",
        ["ENABLE_SIGOPT: there is no lib/track/to_sigopt.py"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_defect_in_the_kconfig_files_is_found(checkout: Path, text: str, expected: list[str]) -> None:
    with (checkout / "Kconfig").open("a") as file:
        file.write(text)
    reader = "\n".join(f"config.{name}" for name in re.findall(r"^config (\w+)$", text, re.MULTILINE))
    write(checkout / "scripts" / "planted.py", reader)
    found = findings(checkout)
    assert len(found) == len(expected), found
    for line, words in zip(sorted(found), sorted(expected), strict=True):
        assert words in line and "Kconfig:" in line, line


def test_a_tracker_that_nothing_switches_on_is_found(checkout: Path) -> None:
    write(checkout / "lib" / "track" / "to_sigopt.py", "")
    menu = "'Experiment Tracking'"
    assert findings(checkout) == [f"lib/track/to_sigopt.py: no ENABLE_SIGOPT in the menu {menu} switches it on"]


# --- defects in defconfigs and fragments ---

LINES = {
    "defconfigs/planted": {
        "CONFIG_SEED=0": "without effect: the default, or said by another line",
        "CONFIG_BATCH_SIZE=64": "",
        "# a comment": "",
        "": "",
        "garbage": "malformed line 'garbage'",
        "CONFIG_SEEED=3": "unknown symbol SEEED; did you mean SEED?",
        "CONFIG_BATCH_SIZE=64 ": "without effect: the default, or said by another line",
        'CONFIG_WANDB_ENTITY="me"': "WANDB_ENTITY=me: needs ENABLE_WANDB (now ENABLE_WANDB=n)",
        'CONFIG_OPTIMIZER="sgd"': "savedefconfig writes CONFIG_OPTIMIZER_SGD=y",
        "# CONFIG_GPT2_BIAS is not set": "without effect: the default, or said by another line",
    },
    "gpt2/defconfigs/planted.config": {
        "CONFIG_GPT2_BIAS=y": "",
        "CONFIG_BATCH_SIZE=16": "without effect: the default, or said by another line",
        "CONFIG_LENET5_BATCH_NORM=y": "needs MODEL_LENET5 (now MODEL=gpt2)",
    },
    "defconfigs/planted.config": {"CONFIG_BATCH_SIZE=16": "", "CONFIG_GPT2_LAYERS=2": "needs MODEL_GPT2 (now MODEL="},
}


@pytest.mark.parametrize(("name", "lines"), LINES.items(), ids=LINES)
def test_each_line_that_is_lost_or_without_effect_is_found(checkout: Path, name: str, lines: dict[str, str]) -> None:
    write(checkout / name, "\n".join(lines))
    expected = {f"{name}:{number}": reason for number, reason in enumerate(lines.values(), 1) if reason}
    found = {":".join(line.split(":")[:2]): line for line in findings(checkout)}
    assert found.keys() == expected.keys()
    assert all(reason in found[place] for place, reason in expected.items()), found


def test_the_faults_of_all_files_come_at_once(checkout: Path) -> None:
    for name in ("defconfigs/one", "lenet5/defconfigs/two", "gpt2/defconfigs/three.config"):
        write(checkout / name, "CONFIG_NOPE=1\n")
    assert len(findings(checkout)) == 3


@pytest.mark.parametrize("name", ["gpt2/defconfigs/planted", "gpt2/defconfigs/planted.config"])
def test_a_file_in_a_models_folder_that_is_another_models_is_found(checkout: Path, name: str) -> None:
    write(checkout / name, "CONFIG_MODEL_RESNET50=y\n")
    assert findings(checkout) == [f"{name}: in gpt2's folder, but of MODEL=resnet50. Select gpt2, or move it"]


@pytest.mark.parametrize("other", ["quickstart", "quickstart.config"])
def test_two_files_of_one_name_are_found(checkout: Path, other: str) -> None:
    write(checkout / "lenet5" / "defconfigs" / other, "CONFIG_SEED=1\n")
    paths = f"defconfigs/quickstart, lenet5/defconfigs/{other}"
    assert findings(checkout) == [f"DEFCONFIG=quickstart is ambiguous: {paths}. Rename one"]


# --- every symbol is read by somebody ---


def test_a_symbol_that_nothing_reads_is_found(checkout: Path) -> None:
    with (checkout / "Kconfig").open("a") as file:
        file.write(symbol("PLANTED", 'bool "P"'))
    (line,) = findings(checkout)
    assert line.startswith("Kconfig:") and line.endswith(": PLANTED: no code and no other symbol reads it")


def unread(code: str = "", folder: str = "lib") -> set[str]:
    return set(readers.unread(Tree(ROOT), [readers.Source(folder, code)]))


def test_without_code_only_what_other_symbols_use_is_read() -> None:
    assert {"SEED", "MOMENTUM", "PRECISION_BF16", "PRECISION", "GPT2_BLOCK_SIZE"} <= unread()
    assert not {"MODEL", "MODEL_GPT2", "GPT2_SIZE_TINY", "ENABLE_WANDB"} & unread()  # others depend on them
    assert not {"PRECISION_BF16", "PRECISION"} & unread("opts.precision")


PLAN = "class Plan:\n    seed: int\n\n"


@pytest.mark.parametrize(
    "code",
    [
        "opts.seed",
        "config.SEED",
        "run.config.SEED",
        'opts.get("seed")',
        'getattr(config, "SEED", 0)',
        'made.values["SEED"]',
        'origins.get("SEED")',
        f"{PLAN}plan = opts.fill(loop.Plan)\nplan.seed",
        "class Options:\n    def __getattr__(self, name): ...\n    def record(self): return self.seed",
    ],
)
def test_these_read_a_symbol(code: str) -> None:
    assert "SEED" not in unread(code)


@pytest.mark.parametrize(
    "code",
    [
        "seed = 3  # seed SEED",
        "seed = SEED = 3\nprint(seed, SEED, 'SEED')",
        "random.seed(3)",
        "self.seed",
        f"{PLAN}plan.seed",  # nobody fills it from the options
        f"{PLAN}opts.fill(Plan)",  # nobody looks at the field
        "def opts(seed: int): ...",
    ],
)
def test_a_mere_name_reads_nothing(code: str) -> None:
    assert "SEED" in unread(code)


def test_a_model_reads_its_own_symbols_without_their_prefix() -> None:
    assert unread() - unread("opts.width", "gpt2") == {"GPT2_WIDTH"}
    assert unread() - unread("opts.width") == set()
    assert unread() - unread("opts.seed", "gpt2") == {"SEED"}


def test_every_model_has_as_many_flags_as_symbols_to_set() -> None:
    told = kconf.symbols(ROOT)
    for model in MODELS:
        others = tuple(f"{other.upper()}_" for other in (*MODELS, "model") if other != model)
        mine = [name for name, symbol in told.items() if (symbol.prompt or symbol.values) and name != "MODEL"]
        assert len(options.flags(told, model)) == len([name for name in mine if not name.startswith(others)])
