"""No key, token or password gets into a run folder or a configuration, and nothing that is none gets lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from configuring import configure, copied_to, made, refused, write

from lib.journal import console, environment, lines, secrets
from lib.options import ROOT

CANARY = "c4n4ry0123456789abcdef"
HEX = "0123456789abcdef0123456789abcdef01234567"
SHAPES = {  # as they look; the secret part of each has the canary, or is all hexadecimal
    "hugging face": f"hf_{CANARY}",
    "openai": f"sk-proj-{CANARY}",
    "github": f"ghp_{CANARY}",
    "github, fine-grained": f"github_pat_11A_{CANARY}",
    "gitlab": f"glpat-{CANARY}",
    "amazon": "AKIAC4N4RY0123456789",
    "slack": f"xoxb-1234-{CANARY}",
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{CANARY}",
    "base 64 json": f"eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8v{CANARY}==",
    "bearer": f"Authorization: Bearer {CANARY}",
    "basic": f"authorization: basic {CANARY}",
    "a url's password": f"https://user:{CANARY}@host.example/path",
    "a password with / and @": f"postgresql://user:p/{CANARY}@x@host.example/db",
    "a url's token for a user": f"https://{CANARY}@host.example/path",
    "a url's key": f"https://host.example/path?api_key={CANARY}&page=2",
    "a signed url": f"https://host.example/path?X-Amz-Signature={CANARY}",
    "wandb beside its name": f"WANDB_API_KEY={HEX}",
    "wandb, local": f"local-{HEX}",
    "in code": f'client_secret = "{CANARY}"',
    "in json": f'{{"api_key": "{CANARY}"}}',
    "in yaml": f"password: {CANARY}",
    "a private key": f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
}
TOLD = (CANARY, CANARY.upper()[:16], HEX)
HARMLESS = [
    "tokens_per_second=51234.25",
    "loss_per_token: 0.693147180559",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "sha256=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "tokenizer = AutoTokenizer.from_pretrained('gpt2-medium')",
    "token = tokenizer.encode(text2)",
    "key: float32",
    "connect(password=db_password)",
    "pad_token='<|endoftext|>1'",
    "author=Ada Lovelace 1815",
    "the bearer of good news, and a keyboard",
    "http://127.0.0.1:5000/#/experiments/1",
    "https://medium.com/@someone/an-article?page=2&author=x",
    "sqlite:////home/me/mlflow.db",
    "git@github.com:owner/repository.git",
    "task-aware-sk-learn-model-with-a-long-name",
    "hf_transfer, hf_datasets_cache",
    "Excellent",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_is_known_by_its_shape(shape: str) -> None:
    told = secrets.scrubbed(f"before {SHAPES[shape]} after", {})
    assert not any(secret in told for secret in TOLD)
    assert told.startswith("before ") and "***" in told
    assert secrets.scrubbed(told, {}) == told, "once is enough"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert secrets.scrubbed(text, {}) == text


def test_of_a_url_the_rest_stays() -> None:
    assert secrets.scrubbed(f"https://me:{CANARY}@host:80/a?x=1&token={CANARY}#b", {}) == (
        "https://***@host:80/a?x=1&token=***#b"
    )


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "X-Api-Key", "token", "HF_TOKEN", "hub/access_token", "password", "db.password", "passwd",
        "client_secret", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD",
        "CLEARML_API_SECRET_KEY", "credentials", "OAuthToken", "private_key", "api_keys", "key",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert secrets.named(name)
    assert secrets.without({name: "plain words", "x": 1}) == {name: "***", "x": 1}


@pytest.mark.parametrize(
    "name",
    [
        "tokens_per_second", "GPT2_TOKENS", "author", "tokenizer", "max_tokens", "pad_token", "eos_token_id", "key_dim",
        "num_key_value_heads", "monkey", "keyboard", "label_key", "token_count", "XAUTHORITY", "secretary", "passes",
    ],
)  # fmt: skip
def test_a_name_that_only_has_the_letters_of_one_is_none(name: str) -> None:
    assert not secrets.named(name)
    assert secrets.without({name: "gpt2"}) == {name: "gpt2"}


def test_numbers_are_metrics_whatever_they_are_called() -> None:
    values = {"token": 17, "key": 0.5, "password": True, "secret": None}
    assert secrets.without(values) == values


def test_secrets_are_found_however_deep_they_lie() -> None:
    deep = {"a": [{"token": CANARY}, "x"], "password": {"old": CANARY, "n": 1}, "words": ["--api-key", CANARY, "-v"]}
    assert secrets.without(deep) == {
        "a": [{"token": "***"}, "x"], "password": {"old": "***", "n": 1}, "words": ["--api-key", "***", "-v"],
    }  # fmt: skip


def test_the_value_of_a_variable_that_is_named_like_a_secret_is_one_wherever_it_turns_up() -> None:
    environ = {"COMET_API_KEY": "correct horse", "GIT_AUTHOR_NAME": "battery", "MY_TOKEN": "short"}
    assert secrets.scrubbed("a correct horse, a battery, and a short one", environ) == (
        "a ***, a battery, and a short one"
    )


def test_a_huge_text_is_looked_through_in_a_moment() -> None:
    before = time.perf_counter()
    for piece in ("a", "key=", "x_key_", "sk-a", "bearer ", "eyJ", "://a:b", "token"):
        secrets.scrubbed(piece * (300_000 // len(piece)), {})
    assert time.perf_counter() - before < 10


def test_a_journal_has_no_secret_in_values_names_options_and_media(tmp_path: Path) -> None:
    journal = lines.Journal(tmp_path / lines.NAME)
    for number, text in enumerate(SHAPES.values()):
        journal.append({"note": text, "loss": 0.5}, number)
        journal.append({text: 0.5}, number)
    journal.append({"api_key": CANARY, "nested": {"token": CANARY}, "tokens_per_second": 5.0}, 100)
    journal.append({"loss": 0.5}, 101, options={"wandb": {"token": CANARY}})
    journal.append({}, 102, media={"kind": "table", "name": "t", "columns": ["a"], "rows": [[f"hf_{CANARY}"]]})
    journal.append({}, 103, media={"kind": "alert", "name": "t", "title": "x", "text": f"Bearer {CANARY}"})
    journal.close()
    text = (tmp_path / lines.NAME).read_text()
    assert not any(secret in text for secret in TOLD)
    values = lines.read(tmp_path)[-4].values
    assert values == {"api_key": "***", "nested/token": "***", "tokens_per_second": 5.0}


PROGRAM = """
import sys
from pathlib import Path
from lib.journal import console
from lib.track.run import Run
from lib.track.settings import Settings
runs, (config, told) = Path(sys.argv[1]), sys.stdin.read().splitlines()
secrets = told.split("|")
on = Settings(60, enable_trackio=True, trackio_space_id=secrets[0], tracker_notes=secrets[1], tracker_tags=secrets[2])
try:
    with Run.create(runs, "p", "run", texts={"config.json": config}, trackers=on) as run:
        with console.kept(run.store.path / "console.log"):
            for secret in secrets:
                print("seen", secret, end="", flush=True)
                print("", file=sys.stdout)
                print(secret, file=sys.stderr)
                run.log({"note": secret, "loss": 0.5})
            run.log({"api_key": secrets[0]})
            list(run.news())
            raise ValueError(secrets[0])
except ValueError:
    pass
"""


def test_no_file_of_a_run_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{CANARY}@host.example")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", CANARY)
    monkeypatch.setenv("SOME_PASSWORD", "swordfish-7")
    told = [text for text in SHAPES.values() if "\n" not in text]
    values = {f"value{number}": text for number, text in enumerate(told)}
    config = json.dumps({"values": {**values, "password": "swordfish-8", "words": ["--token", "swordfish-9"]}})
    given = f"{config}\n{'|'.join([*told, 'a swordfish-7'])}"
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "runs"), "--password", "swordfish-6", f"--x=hf_{CANARY}"]
    done = subprocess.run(words, cwd=ROOT, input=given, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.json", "environment.json", "console.log", "settings.json", "trackio.jsonl", "events.jsonl"} <= names
    bad = [f"{path.name}: {secret}" for path in files for secret in (*TOLD, "swordfish") if secret in path.read_text()]
    assert bad == []
    (store,) = {path.parent for path in files if path.name == "config.json"}
    assert f"seen {secrets.scrubbed(told[0])}\n" in (store / "console.log").read_text()
    assert done.stderr.count("hold a secret, which is not kept") == 1


def test_a_diff_is_kept_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diff = f'+TOKEN = "{CANARY}"\n+tokens = tokenizer(text)\n'
    monkeypatch.setattr(environment, "_git", lambda *words: diff if words[0] == "diff" else "")
    environment.record(tmp_path)
    assert (tmp_path / "dirty.diff").read_text() == '+TOKEN = "***"\n+tokens = tokenizer(text)\n'


def test_what_the_console_showed_is_kept_in_whole_lines_and_the_screen_has_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.kept(tmp_path / "log"):
        print("a token=", end="")
        print(CANARY)
        print("no end", end="")
    assert (tmp_path / "log").read_text() == "a token=***\nno end"
    assert capsys.readouterr().out == f"a token={CANARY}\nno end"


# --- configurations ---
@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path)


@pytest.mark.parametrize("secret", [f"http://me:{CANARY}@host.example:5000", f"hf_{CANARY}", f"password={CANARY}"])
def test_a_configuration_takes_no_secret_and_a_message_shows_none(checkout: Path, secret: str) -> None:
    made(checkout)
    (line,) = refused(checkout, f"TRACKER_NOTES={secret}")
    assert CANARY not in line and line.startswith("command line: TRACKER_NOTES=")
    assert line.endswith(
        "***@host.example:5000: holds a secret, and a configuration is no place for one. "
        "Set the client's own variable instead"
        if "://" in secret
        else "Set the client's own variable instead"
    )


def test_a_secret_is_refused_in_a_defconfig_in_dotconfig_and_as_a_flag(checkout: Path) -> None:
    made(checkout)
    write(checkout / "defconfigs" / "mine", f'CONFIG_TRACKER_NOTES="hf_{CANARY}"\n')
    (line,) = refused(checkout, "DEFCONFIG=mine")
    assert line.startswith("defconfigs/mine:1: TRACKER_NOTES=***: holds a secret")
    words = ["-c", "import lib.kconf as k, lib.options as o, sys; o.load('lenet5', sys.argv[1:], front_end=k)"]
    done = subprocess.run(
        [sys.executable, *words, f"--tracker-notes=hf_{CANARY}"], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: --tracker-notes=***: holds a secret")
    assert CANARY not in done.stderr
    text = (checkout / ".config").read_text()
    write(checkout / ".config", text.replace('CONFIG_TRACKER_NOTES=""', f'CONFIG_TRACKER_NOTES="hf_{CANARY}"'))
    done = configure(checkout, "setconfig", "SEED=3")
    assert done.returncode == 2 and "holds a secret" in done.stderr and CANARY not in done.stderr


def test_an_unknown_symbol_with_a_secret_is_named_without_it(checkout: Path) -> None:
    (line,) = refused(checkout, f"WANDB_API_KEY={HEX}")
    assert line.startswith("command line: WANDB_API_KEY=***: unknown symbol") and HEX not in line


def test_a_configuration_takes_every_ordinary_text(checkout: Path) -> None:
    for text in ("http://127.0.0.1:5000", "my tokens_per_second run", "author: me", "team/space-2", "sk-1"):
        assert text == made(checkout, f"TRACKER_NOTES={text}").TRACKER_NOTES
