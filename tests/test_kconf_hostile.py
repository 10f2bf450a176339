"""Whatever stands in a value stays data or is refused in one line; a canary that nobody may touch proves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cloning import make
from configuring import copied_to, environment, made, refused, resolved, write

from lib import kconf
from lib.journal import folder

DATA = {
    "quote": '"',
    "quotes": "a'b\"c'''\"\"\"",
    "ends in a quote": 'x"',
    "backslash": "a\\",
    "backslashes": '\\\\"\\n\\',
    "dollar": "$",
    "shell variable": "$HOME ${HOME} $$ $x",
    "command": "$(touch canary)",
    "make": "$(shell touch canary)",
    "backquotes": "`touch canary`",
    "comment": "a # b",
    "shell": "a'; touch canary; '",
    "python": "__import__('os').system('touch canary')",
    "python in quotes": "\" + __import__('os').system('touch canary') + \"",
    "format": "{x} %s {0!r} \\N{BULLET}",
    "line of a .config": 'x" CONFIG_SEED=3',
    "not ASCII": "é漢🙂",
    "blanks at the end": "a  ",
    "a switch's": "y",
    "nothing": "",
    "a hundred kilobytes": "x'\"$`" * 20_000,
}
REFUSED = {
    "newline": "a\nCONFIG_SEED=3",
    "a line of Python": '"\nimport os\nos.system("touch canary")\n"',
    "carriage return": "a\rb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "escape": "\x1b[2J",
    "no UTF-8": b"a\xff".decode(errors="surrogateescape"),
    "half a pair": "\ud83d",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def nobody_touched_it(*places: Path) -> bool:
    return not any(path for place in places for path in place.rglob("*canary*"))


def line_of(text: str) -> str:
    return 'CONFIG_WANDB_ENTITY="{}"\n'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def entity(root: Path) -> str:
    """WANDB_ENTITY as a script beside config.py gets it, byte for byte."""
    code = "import sys; from config import config; sys.stdout.buffer.write(config.WANDB_ENTITY.encode())"
    told = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment(), capture_output=True, check=True)
    return told.stdout.decode()


def run(root: Path, *words: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """`scripts/configure.py words…` in the checkout; words may be no UTF-8."""
    command = [sys.executable, "scripts/configure.py", *words]
    return subprocess.run(command, env=environment(), cwd=root, capture_output=True, check=False)


def one_line(told: subprocess.CompletedProcess[bytes]) -> bool:
    lines = told.stderr.splitlines()
    return told.returncode == 2 and len(lines) == 1 and lines[0].startswith(b"error: ") and len(lines[0]) < 400


# --- values that stay data ---


@pytest.mark.parametrize("text", DATA.values(), ids=DATA)
def test_text_typed_or_in_a_file_is_read_back_as_it_was(checkout: Path, text: str) -> None:
    lines = "CONFIG_ENABLE_WANDB=y\n" + line_of(text)
    assert text == made(checkout, "TRACKER=wandb", f"WANDB_ENTITY={text}").WANDB_ENTITY
    assert made(checkout, verb="olddefconfig").WANDB_ENTITY == resolved(checkout).values["WANDB_ENTITY"] == text
    assert kconf.configure(checkout, {}, ["savedefconfig"]) == 0
    saved = (checkout / "defconfig").read_text(encoding="utf-8")
    made(checkout, "SEED=1")
    assert text == made(checkout, "DEFCONFIG=defconfig").WANDB_ENTITY
    assert kconf.configure(checkout, {}, ["savedefconfig"]) == 0
    assert (checkout / "defconfig").read_text(encoding="utf-8") == saved
    for name in ("defconfigs/mine", "gpt2/defconfigs/mine.config"):
        write(checkout / name, lines)
        assert text == made(checkout, f"DEFCONFIG={name}").WANDB_ENTITY
    write(checkout / ".config", lines)
    assert resolved(checkout).values["WANDB_ENTITY"] == made(checkout, verb="olddefconfig").WANDB_ENTITY == text
    assert entity(checkout) == text
    assert nobody_touched_it(checkout)


def test_a_megabyte_in_a_file_is_read_back(checkout: Path) -> None:
    text = "'\"\\$`#" * 170_000
    write(checkout / "defconfigs" / "mine", "CONFIG_ENABLE_WANDB=y\n" + line_of(text))
    made(checkout, "DEFCONFIG=mine")
    assert entity(checkout) == text == made(checkout, verb="olddefconfig").WANDB_ENTITY


def test_processes_and_make_pass_text_on_as_it_is(clone: Path) -> None:
    for text in [*DATA.values(), " leading"]:
        assert run(clone, "defconfig", "TRACKER=wandb", f"WANDB_ENTITY={text}").returncode == 0
        assert entity(clone) == text
        done = make(clone, "-s", "defconfig", "TRACKER=wandb", f"WANDB_ENTITY={text}")
        assert (done.returncode, done.stderr) == (0, "")
        assert entity(clone) == text.lstrip(), "make itself takes blanks at the start away"
    assert nobody_touched_it(clone)


# --- values that are refused ---


@pytest.mark.parametrize("text", [*REFUSED.values(), "a\0b"], ids=[*REFUSED, "NUL"])
def test_what_breaks_lines_or_is_no_text_is_refused(checkout: Path, text: str) -> None:
    made(checkout, "SEED=3")
    (line,) = refused(checkout, "TRACKER=wandb", f"WANDB_ENTITY={text}")
    assert "control characters cannot be stored" in line and line.isprintable()
    for word in (f"TRACKER=wandb{text},trackio", f"MODEL={text}", f"SEED={text}", f"{text}=1"):
        assert len(refused(checkout, word)) == 1
    for variable in ("DEFCONFIG", "O"):
        assert "control characters" in refused(checkout, f"{variable}={text}")[0]
    assert nobody_touched_it(checkout)


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("name", ["defconfigs/bad", "defconfigs/bad.config", ".config"])
def test_a_file_with_such_a_value_is_refused(checkout: Path, name: str, text: str) -> None:
    made(checkout, "SEED=3")
    python = (checkout / "config.py").read_bytes()
    content = ("CONFIG_ENABLE_WANDB=y\n" + line_of(text)).encode(errors="surrogatepass")
    (checkout / name).write_bytes(content)
    verb = ["setconfig", "SEED=4"] if name == ".config" else ["defconfig", f"DEFCONFIG={name}"]
    told = run(checkout, *verb)
    lines = told.stderr.decode().splitlines()
    assert told.returncode == 2 and all(line.startswith(f"error: {name}") and line.isprintable() for line in lines)
    assert (checkout / "config.py").read_bytes() == python
    assert nobody_touched_it(checkout)


@pytest.mark.parametrize(
    "word",
    [
        b"WANDB_ENTITY=\xff", b"SEED=\xff", b"\xff=\xff", b"\xff", b"DEFCONFIG=\xff", b"O=\xff", b"TRACKER=\xff",
        b"TRACKER=wandb\n,trackio", b"SEED=" + b"9" * 5000, b"LEARNING_RATE=" + b"1" * 5000,
        b"TRACKER=" + b"x" * 100_000, b"X" * 100_000 + b"=1", b"MODEL=" + b"x" * 100_000, b"DEFCONFIG=" + b"x" * 5000,
        b"O=" + b"x" * 5000, b"TRACKER_RUN_NAME=" + b"x" * 5000, b"DEFCONFIG=/dev/zero", b"DEFCONFIG=lib", b"=1", b"",
    ],
    ids=lambda word: ascii(word[:30]),
)  # fmt: skip
def test_a_process_refuses_a_hostile_word_in_one_short_line(checkout: Path, word: bytes) -> None:
    told = run(checkout, "defconfig", word)
    assert one_line(told), told.stderr
    assert not (checkout / ".config").exists() and not (checkout / "config.py").exists()


def test_make_refuses_hostile_words_and_goals(clone: Path) -> None:
    hostile = "$(shell touch canary)`touch canary`$$(touch canary);touch canary"
    words = [f"{name}={hostile}" for name in ("SEED", "MODEL", "TRACKER", "DEFCONFIG", "TRACKER_RUN_NAME=/", "X;Y")]
    for goals in [*(("defconfig", word) for word in words), (f"{hostile}.config",), (f"{hostile}_defconfig",)]:
        done = make(clone, *goals)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert make(clone, "-s", "defconfig", f"O={hostile}").returncode == 0  # a folder may have any name
    assert (clone / hostile / ".config").is_file() and not (clone / ".config").exists()
    assert not list(clone.rglob("canary"))


# --- files ---


@pytest.mark.parametrize("name", ["defconfigs/mine", "defconfigs/mine.config", ".config"])
@pytest.mark.parametrize("begin", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_file_from_another_system_is_read_the_same(checkout: Path, name: str, begin: str, end: str) -> None:
    lines = ["CONFIG_OPTIMIZER_SGD=y", 'CONFIG_LEARNING_RATE="0.5"', "# CONFIG_LENET5_BATCH_NORM is not set", ""]
    (checkout / name).write_bytes((begin + end.join(lines)).encode())
    words = ["olddefconfig"] if name == ".config" else ["defconfig", f"DEFCONFIG={name}"]
    config = made(checkout, *words[1:], verb=words[0])
    assert (config.OPTIMIZER, config.LEARNING_RATE, config.LENET5_BATCH_NORM) == ("sgd", 0.5, False)


def test_line_ends_of_another_system_lose_nothing_of_where_values_came_from(checkout: Path) -> None:
    before = made(checkout, "DEFCONFIG=test-sgd", "SEED=3")
    path = checkout / ".config"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    after = made(checkout, verb="olddefconfig")
    assert (after.asdict(), after.origins, after.provenance) == (before.asdict(), before.origins, before.provenance)
    assert b"\r" not in path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\xff\xfe", "CONFIG_SEED=3\n".encode("utf-16"), b"\x7fELF\n\n", b"x" * 10**6,
     b"CONFIG_" + b"X" * 10**6 + b"=1"],
    ids=["NUL", "bytes", "UTF-16", "program", "1 MB", "1 MB of name"],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_refused_in_short_lines(checkout: Path, content: bytes) -> None:
    made(checkout, "SEED=3")
    (checkout / "defconfigs" / "bad").write_bytes(content)
    lines = refused(checkout, "DEFCONFIG=bad")
    assert lines and all(line.startswith("defconfigs/bad:") and len(line) < 1000 for line in lines)
    assert made(checkout, "DEFCONFIG=quickstart").ENABLE_TRACKIO  # others are found all the same
    assert kconf.configure(checkout, {}, ["list-defconfigs"]) == 0
    (checkout / ".config").write_bytes(content)
    assert made(checkout, verb="olddefconfig").SEED == 0


@pytest.mark.parametrize(
    "line",
    [b"# defconfig: \xff 0", b"# defconfig: /dev/zero 0", b"# override: \x1b[2J=\xff", b"# origin: SEED \xff: 3",
     b"# origin: SEED x:\xc2\xb2: 3", b"# fragment: a\0b 0", b"# kconfig: \xff"],
    ids=lambda line: ascii(line),
)  # fmt: skip
def test_a_header_that_somebody_tampered_with_breaks_nothing(checkout: Path, line: bytes) -> None:
    (checkout / ".config").write_bytes(line + b"\nCONFIG_SEED=3\n")
    told = run(checkout, "olddefconfig")
    assert (told.returncode, b"Traceback" in told.stderr) == (0, False), told.stderr
    assert resolved(checkout).values["SEED"] == 3
    assert run(checkout, "setconfig", "SEED=4").returncode == 0 and b"\x1b" not in told.stdout


def test_the_model_of_a_file_of_any_bytes_is_found(checkout: Path) -> None:
    (checkout / ".config").write_bytes(b'# caf\xe9\nCONFIG_MODEL="gpt2"\n')
    assert kconf.model(checkout) == "gpt2"
    (checkout / ".config").unlink()
    (checkout / ".config").mkdir()
    assert kconf.model(checkout) == "lenet5"


def test_a_folder_in_the_place_of_a_file_is_one_line(checkout: Path) -> None:
    (checkout / ".config").mkdir()
    for words in (["defconfig"], ["olddefconfig"], ["savedefconfig"], ["setconfig", "SEED=1"]):
        assert one_line(run(checkout, *words)), words


def test_origins_that_look_like_code_stay_comments(checkout: Path) -> None:
    """A path may hold anything that can be printed; it ends up in comments of both files."""
    name = "defconfigs/x'; import os; os.system('touch canary') #\"\"\""
    write(checkout / name, "CONFIG_SEED=3\n")
    config = made(checkout, f"DEFCONFIG={name}")
    assert (config.SEED, config.origins["SEED"]) == (3, f"{name}:1")
    assert made(checkout, verb="olddefconfig").provenance == config.provenance


# --- the run ---


def train(clone: Path, *flags: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "lenet5/train.py", *flags]
    return subprocess.run(command, cwd=clone, env=environment(), capture_output=True, check=False)


def test_a_run_may_be_called_what_can_name_a_folder(clone: Path) -> None:
    name = 'a\'; touch canary; $(touch canary) `touch canary` "{x}" %s #é漢'
    flags = ("--tracker=trackio", "--max-iters=2", "--eval-samples=1", "--batch-size=4")
    done = train(clone, f"--tracker-run-name={name}", "--tracker-project", "p$(touch canary)'\"", *flags)
    assert done.returncode == 0, done.stderr.decode()
    (path,) = clone.glob("runs/*/*/config.json")
    assert (path.parent.name, path.parent.parent.name) == (name, "p$(touch canary)'\"")
    run = folder.RunFolder(path.parent)
    assert run.configuration["values"]["TRACKER_RUN_NAME"] == name
    assert nobody_touched_it(clone / "lib", clone / "lenet5") and not (clone / "canary").exists()
    again = train(clone, "--config", str(path.parent), "--resume=no", "--help")
    assert again.returncode == 0 and name.encode() in again.stdout


@pytest.mark.parametrize("name", ["../../x", "a/b", "-x", ".x", "a\nb", "a\\b", b"a\xff", "x" * 101, "x" * 100_000])
def test_a_run_that_no_folder_can_be_called_after_is_refused(tmp_path: Path, name: str | bytes) -> None:
    checkout = copied_to(tmp_path / "a checkout", "lenet5/*.py")
    text = name.encode() if isinstance(name, str) else name
    for words in ((b"--tracker-run-name", text), (b"--tracker-project=" + text,)):
        told = train(checkout, *words)
        assert one_line(told), told.stderr[:1000]
    assert not (checkout / "runs").exists()


# --- many faults ---


def test_faults_come_in_the_order_in_which_they_were_written(checkout: Path) -> None:
    write(checkout / "defconfigs" / "one", "CONFIG_SEED=x\ngarbage\nCONFIG_MOMENTUM=0.5\nCONFIG_NOPE=1\n")
    write(checkout / "defconfigs" / "two.config", 'more\nCONFIG_GPT2_LAYERS=3\nCONFIG_EPSILON="2"\n')
    lines = refused(checkout, "DEFCONFIG=one+two", "BETA1=2", "NOPE=1", "TRACKER=wandbb", "BATCH_SIZE=0")
    places = [f"defconfigs/one:{number}" for number in (1, 2, 3, 4)]
    places += [f"defconfigs/two.config:{number}" for number in (1, 2, 3)]
    typed = ["command line: BETA1", "command line: NOPE", "TRACKER=wandbb", "command line: BATCH_SIZE"]
    assert len(lines) == len(places) + len(typed)
    assert all(line.startswith(start) for line, start in zip(lines, places + typed, strict=True)), lines


@pytest.mark.parametrize(
    ("words", "blamed"),
    [
        (["WANDB_ENTITY=me", "ENABLE_WANDB=yes"], "ENABLE_WANDB"),
        (["TRACKER=wandbb", "WANDB_OFFLINE=y"], "TRACKER"),
        (["OPTIMIZER=sdg", "MOMENTUM=0.5"], "OPTIMIZER"),
        (["MODEL_GPT2=y", "MODEL_RESNET50=y", "RESNET50_WIDTH=8"], "MODEL_RESNET50"),
        (["DATASET_MIB=3", "DATASET=finewebedu"], "DATASET"),
    ],
)
def test_what_fails_only_because_another_line_does_is_not_told_too(
    checkout: Path, words: list[str], blamed: str
) -> None:
    (line,) = refused(checkout, *words)
    assert f"{blamed}=" in line.partition(" ")[0] + line.removeprefix("command line: ").partition(":")[0]
