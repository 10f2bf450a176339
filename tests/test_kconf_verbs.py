"""The verbs beyond defconfig: what each makes, what each shows, and what each refuses to ignore."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from configuring import SGD, copied_to, loaded, made, refused, resolved, write

from lib import kconf, options
from lib.errors import Refused
from lib.kconf import dotconfig
from lib.options import ROOT, Faults


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def printed(root: Path, capsys: pytest.CaptureFixture[str], verb: str, *words: str) -> str:
    """What a verb that only looks prints; it must leave the files alone."""
    before = {path: path.read_bytes() for path in root.glob(".config*")}
    capsys.readouterr()
    assert kconf.configure(root, {}, [verb, *words]) == 0
    assert {path: path.read_bytes() for path in root.glob(".config*")} == before
    return capsys.readouterr().out


# --- what makes a configuration ---


@pytest.mark.parametrize("goal", ["test-sgd_defconfig", "defconfig-test-sgd", "lenet5/defconfigs/test-sgd_defconfig"])
def test_a_defconfig_has_targets_of_its_name(checkout: Path, goal: str) -> None:
    config = made(checkout, "TRACKER=trackio", verb=goal)
    assert (config.OPTIMIZER, config.ENABLE_TRACKIO) == ("sgd", True)
    assert config.origins["OPTIMIZER"] == "lenet5/defconfigs/test-sgd:1"


def test_a_defconfig_target_takes_no_second_defconfig(checkout: Path) -> None:
    assert "two defconfigs" in refused(checkout, "DEFCONFIG=quickstart", verb="test-sgd_defconfig")[0]


def test_a_fragment_goes_on_top_of_what_is_configured(checkout: Path) -> None:
    write(checkout / "defconfigs" / "hasty.config", "CONFIG_MAX_ITERS=5\nCONFIG_SEED=7\n")
    made(checkout, "DEFCONFIG=test-sgd", "SEED=3", "BATCH_SIZE=8")
    config = made(checkout, verb="hasty.config")
    assert (config.OPTIMIZER, config.BATCH_SIZE, config.MAX_ITERS, config.SEED) == ("sgd", 8, 5, 7)
    assert config.origins["SEED"] == "defconfigs/hasty.config:2"
    assert [path for path, _ in config.provenance["fragments"]] == ["defconfigs/hasty.config"]
    assert made(checkout, "SEED=9", verb="hasty.config").SEED == 9


def test_a_fragment_without_a_configuration_starts_from_the_defaults(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(checkout, verb="smoke.config").MAX_ITERS == 20
    assert "note: no .config yet: this starts from all defaults" in capsys.readouterr().err


def test_an_unknown_fragment_names_the_near_one(checkout: Path) -> None:
    (line,) = refused(checkout, verb="smok.config")
    assert line.startswith("no fragment 'smok.config'; close: smoke.config")


@pytest.mark.parametrize(
    "words", [("TRACKIO_PORT=5000", "ENABLE_TRACKIO=y"), ("ENABLE_TRACKIO=y", "TRACKIO_PORT=5000")]
)
def test_setconfig_changes_what_it_names_in_any_order_and_nothing_else(checkout: Path, words: tuple[str, ...]) -> None:
    made(checkout, "DEFCONFIG=test-sgd", "SEED=3")
    before = resolved(checkout).values
    config = made(checkout, *words, verb="setconfig")
    changed = {name: value for name, value in config.asdict().items() if before.get(name) != value}
    opened = {"TRACKIO_SPACE_ID": "", "TRACKIO_INTERVAL": 1, "TRACKIO_SECTIONS": False}
    assert changed == {"ENABLE_TRACKIO": True, "TRACKIO_PORT": 5000, **opened}


def test_setconfig_loses_nothing_in_silence(checkout: Path) -> None:
    made(checkout)
    (line,) = refused(checkout, "TRACKIO_PORT=5000", "ENABLE_TRACKIO=n", verb="setconfig")
    assert line == "command line: TRACKIO_PORT=5000: needs ENABLE_TRACKIO (now ENABLE_TRACKIO=n)"
    assert "nothing to set" in refused(checkout, verb="setconfig")[0]


def test_what_was_typed_is_forgotten_once_it_no_longer_decides(checkout: Path) -> None:
    typed = ["MODEL=gpt2", "GPT2_WIDTH=64", "SEED=3", "BATCH_SIZE=8", "TRACKER=trackio"]
    assert set(made(checkout, *typed).provenance["overrides"]) == set(typed)
    path = checkout / ".config"
    write(path, path.read_text().replace("CONFIG_SEED=3", "CONFIG_SEED=4"))
    config = made(checkout, "MODEL=lenet5", verb="setconfig")
    assert set(config.provenance["overrides"]) == {"MODEL=lenet5", "BATCH_SIZE=8", "TRACKER=trackio"}
    assert (config.SEED, config.origins["SEED"].partition(":")[0], config.BATCH_SIZE) == (4, ".config", 8)


def test_allnoconfig_and_allyesconfig_switch_what_can_be_switched(checkout: Path) -> None:
    switches = {n for n, s in kconf.symbols(ROOT).items() if s.type == "bool" and s.prompt and not s.choice}
    off = made(checkout, verb="allnoconfig").asdict()
    assert not any(off[name] for name in switches & off.keys())
    on = made(checkout, verb="allyesconfig").asdict()
    assert all(on[name] for name in switches & on.keys()) and on["WANDB_OFFLINE"]
    assert made(checkout, verb="alldefconfig").asdict() == made(checkout).asdict()


def test_what_was_typed_wins_over_every_switch(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = made(checkout, "TRACKER=wandb", "WANDB_ENTITY=me", verb="allyesconfig")
    assert (config.ENABLE_WANDB, config.ENABLE_TRACKIO, config.WANDB_ENTITY) == (True, False, "me")
    assert "dropped" not in capsys.readouterr().err, "nobody typed what the switches lost"
    (line,) = refused(checkout, "WANDB_OFFLINE=y", verb="allnoconfig")
    assert line.endswith("needs ENABLE_WANDB (now ENABLE_WANDB=n)")


def test_kconfig_allconfig_fixes_some_values(checkout: Path) -> None:
    write(checkout / "fixed", "CONFIG_SEED=5\nCONFIG_OPTIMIZER_SGD=y\n")
    config = made(checkout, "KCONFIG_ALLCONFIG=fixed", "KCONFIG_SEED=1", verb="randconfig")
    assert (config.SEED, config.OPTIMIZER, config.origins["SEED"]) == (5, "sgd", "fixed:1")
    assert "neither allno.config nor all.config" in refused(checkout, "KCONFIG_ALLCONFIG=1", verb="allnoconfig")[0]
    write(checkout / "all.config", "CONFIG_SEED=6\n")
    write(checkout / "allno.config", "CONFIG_SEED=7\n")
    assert made(checkout, "KCONFIG_ALLCONFIG=1", verb="allnoconfig").SEED == 7
    assert made(checkout, "KCONFIG_ALLCONFIG=1", verb="alldefconfig").SEED == 6


def test_randconfig_prints_a_seed_that_makes_the_same_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(checkout, verb="randconfig").asdict()
    _, _, seed = capsys.readouterr().out.partition("KCONFIG_SEED=")
    assert made(checkout, f"KCONFIG_SEED={seed.partition(')')[0]}", verb="randconfig").asdict() == first
    several = {str(made(checkout, f"KCONFIG_SEED={seed}", verb="randconfig").asdict()) for seed in range(8)}
    assert len(several) > 4
    for text in ("x", "-1", "1" * 5000):
        (line,) = refused(checkout, f"KCONFIG_SEED={text}", verb="randconfig")
        assert line.endswith("expected a whole number, such as 7") and len(line) < 300


def test_savedefconfig_leaves_the_comments_at_the_head(checkout: Path) -> None:
    head = "# Why this is so.\n\n# CONFIG_LENET5_BATCH_NORM is not set\n"
    path = write(checkout / "lenet5" / "defconfigs" / "mine", head)
    made(checkout, "DEFCONFIG=mine", "SEED=2")
    assert kconf.configure(checkout, {}, ["savedefconfig", "DEFCONFIG=mine"]) == 0
    assert path.read_text() == f"{head}CONFIG_SEED=2\n"


def identity(path: Path) -> tuple[int, int]:
    """Changes when the file is written, or replaced by its equal; not when it is read."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


@pytest.mark.parametrize("name", [".config", "lib/", "Kconfig", "out/.config", "/dev/null"])
def test_savedefconfig_overwrites_nothing_but_defconfigs(checkout: Path, name: str) -> None:
    made(checkout)
    assert kconf.configure(checkout, {}, ["defconfig", "O=out"]) == 0
    before = identity(checkout / name)
    (line,) = refused(checkout, f"DEFCONFIG={name}", verb="savedefconfig")
    assert line == f"DEFCONFIG={name}: that is no defconfig and stays as it is. Choose another name"
    assert identity(checkout / name) == before, "not even replaced by the same"


# --- what only looks ---


def test_showconfig_tells_value_type_origin_and_the_way(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout, "DEFCONFIG=test-sgd", "SEED=3")
    shown = printed(checkout, capsys, "showconfig", "SYM=SEED,LEARNING_RATE,OPTIMIZER")
    for line in (
        "SEED=3",
        "origin      command line",
        "to set it   make setconfig SEED=…; --seed=… of lenet5/train.py",
        "type        float in (0, 10]",
        'origin      default "0.05" if OPTIMIZER_SGD',
        "depends on  nothing",
        "OPTIMIZER=sgd",
        "type        one of sgd, adam, adamw",
        "origin      lenet5/defconfigs/test-sgd:1",
        "defined at  lib/optim/Kconfig:",
    ):
        assert line in shown, shown


@pytest.mark.parametrize("name", [n for n, s in kconf.symbols(ROOT).items() if s.prompt or s.values])
def test_what_showconfig_says_to_type_does_it(checkout: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """For every symbol of the tree, from all defaults."""
    made(checkout)
    shown = printed(checkout, capsys, "showconfig", f"SYM={name}")
    _, _, way = shown.partition("to set it   make setconfig ")
    told = kconf.symbols(ROOT)[name]
    values = {"int": "300" if name == "TOKENIZER_VOCABULARY" else "8", "hex": "0x8", "float": "0.5"}
    values["string"] = told.values[0] if told.values else "x"
    words = way.splitlines()[0].partition(";")[0].replace("…", values.get(told.type, "y")).split()
    origins = made(checkout, *words, verb="setconfig").origins
    assert origins[name] == "command line"


def test_showconfig_tells_what_a_symbol_that_is_unset_needs(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout)
    shown = printed(checkout, capsys, "showconfig", "SYM=WANDB_ENTITY")
    assert "WANDB_ENTITY is unset" in shown and "depends on  ENABLE_WANDB (now ENABLE_WANDB=n)" in shown
    assert "to set it   make setconfig ENABLE_WANDB=y WANDB_ENTITY=…" in shown
    shown = printed(checkout, capsys, "showconfig", "SYM=wandb_entity", "TRACKER=wandb")
    assert "to set it   make setconfig WANDB_ENTITY=…" in shown


def test_showconfig_of_a_run_names_its_flags(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = checkout / "runs" / "project" / "one"
    run.mkdir(parents=True)
    opts = options.load("lenet5", ["--learning-rate=0.1", "--tracker", "trackio"], front_end=kconf, root=checkout)
    write(run / ".config", opts.dotconfig)
    write(run / "config.json", opts.record().files["config.json"])
    shown = printed(checkout, capsys, "showconfig", "SYM=LEARNING_RATE,ENABLE_TRACKIO", "RUN=one")
    assert "LEARNING_RATE=0.1" in shown and "origin      --learning-rate" in shown and "origin      --tracker" in shown
    assert refused(checkout, "RUN=one", "O=out", verb="showconfig")[0].startswith("O=out with RUN=one: each has")
    (run / ".config").unlink()
    assert refused(checkout, "RUN=one", verb="showconfig")[0].startswith("RUN=one: no .config there")


def test_showconfig_without_a_symbol_is_a_line_for_each(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout, "DEFCONFIG=test-sgd")
    rows = [line.split() for line in printed(checkout, capsys, "showconfig").splitlines()]
    assert ["OPTIMIZER=sgd", "lenet5/defconfigs/test-sgd:1"] in rows and ["SEED=0", "default"] in rows
    (line,) = refused(checkout, "SYM=SEDE", verb="showconfig")
    assert line == "SYM=SEDE: unknown symbol; did you mean SEED?"


def test_listnewconfig_names_what_a_configuration_has_not(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout)
    assert printed(checkout, capsys, "listnewconfig") == ""
    text = (checkout / ".config").read_text()
    write(checkout / ".config", "\n".join(line for line in text.splitlines() if "CONFIG_SEED" not in line) + "\n")
    assert printed(checkout, capsys, "listnewconfig") == "CONFIG_SEED=0\n"
    shown = printed(checkout, capsys, "helpnewconfig")
    assert shown.startswith("CONFIG_SEED=0\n    Seed\n    ") and len(shown.splitlines()) > 2


def test_diffconfig_compares_configurations_defconfigs_and_runs(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(checkout, "SEED=1")
    made(checkout, "SEED=2")
    assert printed(checkout, capsys, "diffconfig") == " SEED 1 -> 2\n"
    shown = printed(checkout, capsys, "diffconfig", "A=quickstart", "B=test-sgd").splitlines()
    assert {' OPTIMIZER "adamw" -> "sgd"', '+MOMENTUM "0.9"', '-BETA1 "0.9"'} <= set(shown)
    run = checkout / "runs" / "project" / "one"
    run.mkdir(parents=True)
    write(run / ".config", (checkout / ".config").read_text())
    write(run / "config.json", "{}")
    for name in (run, "one", "project/one"):
        assert printed(checkout, capsys, "diffconfig", f"A={name}", "B=.config.old") == " SEED 2 -> 1\n"
    assert "no defconfig 'nope'" in refused(checkout, "A=nope", "B=quickstart", verb="diffconfig")[0]
    assert "cannot be read: File name too long" in refused(checkout, f"A={'x' * 300}", verb="diffconfig")[0]
    shutil.copytree(run, checkout / "runs" / "other" / "one")
    with pytest.raises(Refused, match="A=one: 2 projects have such a run"):
        kconf.configure(checkout, {}, ["diffconfig", "A=one"])


# --- nothing is ignored ---


@pytest.mark.parametrize(
    ("verb", "word", "line"),
    [
        ("defconfig", "RESUME=n", "RESUME=n: defconfig does not read RESUME; it goes with make"),
        ("menuconfig", "A=x", "A=x: menuconfig does not read A; it goes with make diffconfig"),
        ("list-defconfigs", "SEED=1", "SEED=1: list-defconfigs takes no symbols"),
        ("defconfig", "KCONFIG_CONFIG=x", "KCONFIG_CONFIG=x: defconfig does not read KCONFIG_CONFIG; it goes with no"),
    ],
)
def test_a_variable_that_a_verb_does_not_read_is_refused(checkout: Path, verb: str, word: str, line: str) -> None:
    assert refused(checkout, word, verb=verb)[0].startswith(line)


# --- freshness ---


def test_a_run_says_in_one_line_that_the_tree_or_the_defconfig_has_changed(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(checkout, "DEFCONFIG=test-sgd")
    options.load("lenet5", [], front_end=kconf, root=checkout)
    assert capsys.readouterr().err == ""
    write(checkout / "lenet5" / "defconfigs" / "test-sgd", SGD + "CONFIG_SEED=4\n")
    assert options.load("lenet5", [], front_end=kconf, root=checkout).seed == 0
    note = (
        "note: lenet5/defconfigs/test-sgd changed since .config was made, which keeps its values: make defconfig DEFC"
    )
    assert capsys.readouterr().err.startswith(note)
    with (checkout / "lib" / "optim" / "Kconfig").open("a") as file:
        file.write("\n# more\n")
    for flags in ([], ["--seed", "3"]):
        options.load("lenet5", flags, front_end=kconf, root=checkout)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("note: the Kconfig files and lenet5/defconfigs/test-sgd changed since .config was made")
    made(checkout, verb="olddefconfig")
    capsys.readouterr()
    options.load("lenet5", [], front_end=kconf, root=checkout)
    assert capsys.readouterr().err.startswith(note)
    made(checkout, "DEFCONFIG=test-sgd")
    capsys.readouterr()
    options.load("lenet5", [], front_end=kconf, root=checkout)
    assert capsys.readouterr().err == ""


def test_a_changed_default_is_not_taken_behind_the_users_back(checkout: Path) -> None:
    before = made(checkout).asdict()
    path = checkout / "lib" / "Kconfig.loop"
    write(path, path.read_text().replace("default 32", "default 64"))
    assert before["BATCH_SIZE"] == 32
    assert resolved(checkout).values["BATCH_SIZE"] == 32
    assert made(checkout).BATCH_SIZE == 64


def test_new_symbols_of_a_choice_count_as_one_question(checkout: Path) -> None:
    from lib.kconf.tree import Tree

    tree = Tree(checkout)
    write(checkout / ".config", "CONFIG_MODEL_GPT2=y\n")
    assert not [name for name in dotconfig.new_symbols(tree, checkout / ".config") if name.startswith("MODEL_")]
    assert "OPTIMIZER_SGD" in dotconfig.new_symbols(tree, checkout / ".config")


def test_an_unknown_verb_is_refused(checkout: Path) -> None:
    with pytest.raises(Faults, match="did you mean showconfig"):
        kconf.configure(checkout, {}, ["shoconfig"])
    assert not (checkout / "config.py").exists() and not list(checkout.glob(".config*"))


def test_out_of_tree_verbs_write_there(checkout: Path) -> None:
    for verb in ("defconfig", "smoke.config", "randconfig", "allyesconfig", "olddefconfig", "savedefconfig"):
        assert kconf.configure(checkout, {}, [verb, "O=out"]) == 0
    assert (
        loaded(checkout / "out") and not (checkout / ".config").exists() and (checkout / "out" / "defconfig").exists()
    )
