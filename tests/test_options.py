"""What train.py sees: flags as the top layer of the front end, and every symbol as a typed attribute."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from configuring import copied_to, environment, made, write

from lib import kconf, options
from lib.kconf.tree import Tree
from lib.options import Options

MODELS = ("lenet5", "resnet50", "gpt2")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def load(root: Path, model: str, *argv: str) -> Options:
    return options.load(model, argv, front_end=kconf, root=root)


def refused(root: Path, capsys: pytest.CaptureFixture[str], model: str, *argv: str) -> list[str]:
    """What a script says that exits with 2."""
    with pytest.raises(SystemExit) as end:
        load(root, model, *argv)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()


# --- flags ---


def test_the_flag_of_a_symbol_drops_its_own_models_prefix() -> None:
    assert options.flag("GPT2_BLOCK_SIZE", "gpt2") == "--block-size"
    assert options.flag("GPT2_BLOCK_SIZE", "lenet5") == "--gpt2-block-size"
    assert options.flag("LEARNING_RATE", "gpt2") == "--learning-rate"
    assert options.flag("TRACKER", "gpt2") == "--tracker"


@pytest.mark.parametrize("model", MODELS)
def test_no_two_symbols_of_a_model_share_a_flag(checkout: Path, model: str) -> None:
    symbols = kconf.symbols(checkout)
    flags = options.flags(symbols, model)
    others = tuple(f"{other.upper()}_" for other in MODELS if other != model)
    wanted = {
        name
        for name, symbol in symbols.items()
        if (symbol.prompt or symbol.values) and not name.startswith((*others, "MODEL"))
    }
    assert {symbol.name for symbol in flags.values()} == wanted
    assert not flags.keys() & {*options.OWN_FLAGS, "--tracker", "--help"}
    negated = {f"--no-{name[2:]}" for name, symbol in flags.items() if symbol.type == "bool"}
    assert not flags.keys() & negated


@pytest.mark.parametrize("spelled", [["--block-size", "32"], ["--block_size=32"], ["--block-size=32"]])
def test_flags_may_be_spelled_with_underscores_and_equals_signs(checkout: Path, spelled: list[str]) -> None:
    opts = load(checkout, "gpt2", *spelled)
    assert (opts.block_size, opts.origins["GPT2_BLOCK_SIZE"]) == (32, "--block-size")


@pytest.mark.parametrize(
    ("argv", "value"),
    [(["--batch-norm"], True), (["--no-batch-norm"], False), (["--no_batch_norm"], False), (["--batch-norm=n"], False)],
)
def test_bools_are_switched_on_and_off(checkout: Path, argv: list[str], value: bool) -> None:
    assert load(checkout, "lenet5", *argv).batch_norm is value


def test_a_negative_number_is_a_value(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(checkout, capsys, "lenet5", "--seed", "-1") == [
        "error: --seed=-1: outside the range [0, 2147483647]"
    ]


def test_of_a_repeated_flag_the_last_counts(checkout: Path) -> None:
    assert load(checkout, "lenet5", "--seed=1", "--seed", "2").seed == 2


def test_tracker_is_a_flag_and_sets_every_tracker(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=quickstart")
    opts = load(checkout, "lenet5", "--tracker", "wandb")
    assert (opts.enable_trackio, opts.enable_wandb) == (False, True)
    assert opts.provenance["overrides"] == ["--tracker=wandb"]


def test_another_optimizer_brings_its_own_defaults_also_on_a_written_configuration(checkout: Path) -> None:
    made(checkout)
    assert load(checkout, "lenet5").learning_rate == 0.004
    opts = load(checkout, "lenet5", "--optimizer", "sgd")
    assert (opts.learning_rate, opts.momentum) == (0.05, 0.9)
    assert opts.origins["LEARNING_RATE"] == "default"


def test_another_models_script_brings_its_own_defaults(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout, "DEFCONFIG=test-mnist", "SEED=3")
    capsys.readouterr()
    opts = load(checkout, "gpt2")
    assert (opts.model, opts.dataset, opts.seed, opts.batch_size) == ("gpt2", "stdlib", 3, 128)
    assert opts.origins["MODEL"] == "gpt2/train.py"
    assert capsys.readouterr().err.splitlines() == [
        "note: lenet5/defconfigs/test-mnist:1: DATASET_MNIST dropped, gpt2/train.py: MODEL=gpt2"
    ]


def test_all_faults_of_a_command_line_are_told_at_once(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--blok_size", "3", "--size=huge", "--beta1", "1", "--momentum", "0.5", "stray", "--tracker", "wandbb"]
    lines = refused(checkout, capsys, "gpt2", *wrong, "--seed")
    assert sorted(lines) == [
        "error: 'stray': expected a flag, such as --seed=1; --help lists them",
        "error: --beta1=1: outside [0, 1)",
        "error: --blok_size: unknown flag; did you mean --block-size?",
        "error: --momentum=0.5: needs OPTIMIZER_SGD (now OPTIMIZER=adamw)",
        "error: --seed: a value is missing",
        "error: --size=huge: unknown value (known: tiny, 124m, 350m)",
        "error: --tracker=wandbb: unknown tracker 'wandbb'; did you mean wandb? (known: "
        f"{', '.join(Tree(checkout).trackers)})",
    ]


@pytest.mark.parametrize("flag", ["--model", "--model-gpt2", "--gpt2-block-size", "--gpt2-size"])
def test_the_model_and_other_models_symbols_are_no_flags(
    checkout: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (line,) = refused(checkout, capsys, "lenet5", f"{flag}=1")
    assert line.startswith(f"error: {flag}: unknown flag")


def test_help_is_grouped_by_menu_and_tells_present_values(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout, "OPTIMIZER=sgd", "SEED=3")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        load(checkout, "lenet5", "--help")
    text = capsys.readouterr().out
    assert end.value.code == 0
    headings = [line for line in text.splitlines() if line and not line.startswith((" ", "usage", "Flags"))]
    menus = ["LeNet-5", "Data", "Optimizer", "Pruning", "Training", "GPU monitoring"]
    assert headings == [*menus, "Test matrix", "Experiment Tracking"]
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")}
    assert lines["--seed"].endswith("Seed = 3 in [0, 2147483647]")
    assert lines["--learning-rate"].endswith("Peak learning rate = 0.05 in (0, 10]")
    assert lines["--beta1"].endswith("(needs !OPTIMIZER_SGD)")
    assert "{sgd,adam,adamw,adamwadv,adamwspam,adamwprune}" in lines["--optimizer"]
    assert {"--tracker", "--resume", "--config", "--[no-]batch-norm"} <= lines.keys()
    assert "--optimizer-sgd" not in lines and "--block-size" not in lines


def test_help_opens_on_a_broken_configuration(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(checkout / ".config", "nonsense\n")
    with pytest.raises(SystemExit) as end:
        load(checkout, "lenet5", "-h")
    assert end.value.code == 0 and "--seed" in capsys.readouterr().out


def test_notes_come_once_on_every_node(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(checkout, "DEFCONFIG=test-mnist")
    capsys.readouterr()
    monkeypatch.setenv("LOCAL_RANK", "1")
    load(checkout, "gpt2")
    assert capsys.readouterr().err == ""


# --- attributes ---


def test_values_are_typed_and_an_unset_one_says_what_it_needs(checkout: Path) -> None:
    opts = load(checkout, "gpt2", "--dropout", "1e-1")
    assert (opts.dropout, opts.block_size, opts.bias, opts.size) == (0.1, 64, False, "tiny")
    with pytest.raises(AttributeError, match=r"^momentum is unset: MOMENTUM needs OPTIMIZER_SGD$"):
        _ = opts.momentum
    with pytest.raises(AttributeError, match=r"no symbol LERNING_RATE; did you mean learning_rate\?"):
        _ = opts.lerning_rate
    assert opts.get("momentum") is None and opts.get("beta1") == 0.9
    with pytest.raises(AttributeError):
        opts.get("lerning_rate")


def test_options_are_read_only(checkout: Path) -> None:
    opts = load(checkout, "lenet5")
    with pytest.raises(AttributeError, match="read-only"):
        opts.seed = 3


@dataclass
class Form:
    learning_rate: float
    batch_norm: bool
    momentum: float | None = None
    beta1: float | None = None
    derived: list[str] = field(init=False, default_factory=list)


@dataclass
class Slip:
    lerning_rate: float = 0.0


@dataclass
class Needy:
    momentum: float


def test_fill_makes_a_dataclass_and_leaves_unset_fields_at_their_default(checkout: Path) -> None:
    opts = load(checkout, "lenet5", "--no-batch-norm", "--optimizer=sgd")
    assert opts.fill(Form) == Form(0.05, False, momentum=0.9, beta1=None)


def test_fill_refuses_a_field_that_is_no_symbol_or_unset_without_default(checkout: Path) -> None:
    with pytest.raises(AttributeError, match="did you mean learning_rate"):
        load(checkout, "lenet5").fill(Slip)
    with pytest.raises(AttributeError, match="momentum is unset"):
        load(checkout, "lenet5").fill(Needy)


# --- which configuration ---


def test_without_flags_a_fresh_config_py_is_enough(checkout: Path) -> None:
    made(checkout, "SEED=3")
    code = (
        "import sys; sys.path.insert(0, '.'); from lib import kconf, options; opts = options.load('lenet5', [], "
        "front_end=kconf); print(opts.seed, opts.resume, 'kconfiglib' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True, check=True)
    assert told.stdout == "3 no False False\n"


def test_config_py_and_the_kconfig_tree_give_the_same_options(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=test-sgd", "LEARNING_RATE=1e-2", "TRACKER=wandb")
    quick = load(checkout, "lenet5")
    (checkout / "config.py").unlink()
    slow = load(checkout, "lenet5")
    assert slow.values == quick.values and slow.hash == quick.hash and slow.unset == quick.unset
    assert {name for name in quick.values if slow.origins[name] != quick.origins[name]} <= {
        name for name in quick.values if name.startswith("MODEL")
    }


@pytest.mark.parametrize("text", [None, "garbage(", "config = 3\n", "import nothing_of_that_name\n"])
def test_a_config_py_that_does_not_belong_to_dotconfig_is_not_used(checkout: Path, text: str | None) -> None:
    made(checkout, "SEED=3")
    if text is None:
        write(checkout / ".config", (checkout / ".config").read_text().replace("CONFIG_SEED=3", "CONFIG_SEED=4"))
    else:
        write(checkout / "config.py", text)
    assert load(checkout, "lenet5").seed == (4 if text is None else 3)


def test_without_a_configuration_everything_is_default(checkout: Path) -> None:
    opts = load(checkout, "resnet50")
    assert (opts.model, opts.depth, opts.dataset) == ("resnet50", "50", "digits")


def test_a_run_folders_own_configuration_reproduces_it(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=quickstart")
    first = load(checkout, "lenet5", "--seed=9", "--optimizer=sgd", "--resume", "auto")
    record = first.record()
    folder = checkout / "runs" / "p" / "r"
    folder.mkdir(parents=True)
    for name, text in record.files.items():
        write(folder / name, text)
    made(checkout, "SEED=1")  # editing the root changes nothing that was started
    again = load(checkout, "lenet5", "--config", str(folder))
    assert (again.values, again.hash, again.origins) == (first.values, first.hash, first.origins)
    assert load(checkout, "lenet5", f"--config={folder}", "--seed", "9").hash == first.hash
    assert load(checkout, "lenet5", f"--config={folder}", "--seed", "8").hash != first.hash
    assert (record.model, record.optimizer, record.resume, record.name) == ("lenet5", "sgd", "auto", "")
    assert record.project == first.tracker_project


def test_a_folder_without_configuration_or_of_another_model_is_refused(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kconf.configure(checkout, {}, ["defconfig", "MODEL=gpt2", "O=out"]) == 0
    capsys.readouterr()
    for words in (["--config="], ["--config", ""], ["--config"]):
        assert refused(checkout, capsys, "lenet5", *words) == ["error: --config: a value is missing"]
    assert refused(checkout, capsys, "lenet5", f"--config={checkout}/nope") == [
        f"error: --config {checkout}/nope: no .config there"
    ]
    assert refused(checkout, capsys, "lenet5", "--config", f"{checkout}/out") == [
        f"error: --config {checkout}/out: a configuration of gpt2; run python gpt2/train.py"
    ]


def test_a_configuration_that_cannot_be_read_is_one_line(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    (line,) = refused(checkout, capsys, "lenet5", f"--config={long}")
    assert line == f"error: {long}/.config: cannot be read: File name too long"
    (checkout / ".config").mkdir()
    (line,) = refused(checkout, capsys, "lenet5")
    assert line == f"error: {checkout}/.config: cannot be read: Is a directory"


def test_a_broken_configuration_stops_a_run_with_its_lines(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(checkout / ".config", "CONFIG_SEED=x\nCONFIG_GONE=1\n")
    lines = refused(checkout, capsys, "lenet5")
    assert lines[0] == "error: .config:1: SEED=x: expected int" and len(lines) == 3
