"""A trained run: a text sampled from it, and its export, which other programs read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

from gpt2 import export as gpt2_export
from gpt2 import trained as texts
from gpt2.model import GPT2
from lenet5.model import LeNet5
from lib import checkpoint, trained
from lib.data import tokenizer
from lib.errors import Refused
from lib.journal.folder import RunFolder
from lib.options import ROOT, Faults

SHAPE = {"layers": 2, "heads": 2, "width": 16, "block_size": 32, "bias": False, "gelu_tanh": False}
TEXT = b"The cat sat on the mat, and the mat sat on the cat. " * 20


def run_of(root: Path, model: torch.nn.Module, **values: object) -> RunFolder:
    """A run whose best checkpoint holds `model`."""
    run = RunFolder.create(root / "runs", "project", "a-run")
    run.keep({"config.json": json.dumps({"values": values})})
    checkpoint.save(run.checkpoints, "best", 7, model=model.state_dict(), training=None, meta={})
    return run


def gpt2_of(root: Path, *, kind: str = "bytes", vocabulary: int = 256) -> tuple[RunFolder, GPT2]:
    torch.manual_seed(0)
    model = GPT2(**SHAPE, vocabulary=vocabulary).eval()  # type: ignore[arg-type]  # mixed, but each is right
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that the logits differ
    sizes = {f"GPT2_{name.upper()}": value for name, value in SHAPE.items()}
    return run_of(root, model, MODEL="gpt2", TOKENIZER=kind, **sizes), model


def started(root: Path, script: str, *words: str) -> tuple[int, str, str]:
    """A script of this tree, as make starts it: its status, what it said, and its complaints."""
    command = [sys.executable, str(ROOT / script), *words]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def typed(**variables: str) -> dict[str, str]:
    """What make's command line becomes in the environment."""
    return {**variables, "KCONF_CLI": " ".join(variables)}


# --- sampling ---------------------------------------------------------------------------------------------------------


def continued(model: GPT2, count: int, *, temperature: float = 1.0, top_k: int = 0, seed: int = 0) -> list[int]:
    drawn = torch.Generator().manual_seed(seed)
    start = [0, 65, 66]
    return list(texts.continued(model, start, count=count, temperature=temperature, top_k=top_k, generator=drawn))


def test_at_temperature_0_the_likeliest_token_is_taken(tmp_path: Path) -> None:
    _, model = gpt2_of(tmp_path)
    tokens = [0, 65, 66]
    for token in continued(model, 60, temperature=0):
        assert token == model(torch.tensor([tokens[-32:]]))[0, -1].argmax()
        tokens.append(token)


def test_chances_are_the_softmax_of_the_logits_over_the_temperature_among_the_top_k(tmp_path: Path) -> None:
    _, model = gpt2_of(tmp_path)
    logits = model(torch.tensor([[0, 65, 66]]))[0, -1].detach() / 2.0
    likeliest = logits.topk(5).indices
    expected = logits[likeliest].softmax(-1)
    draws = Counter(token for seed in range(1000) for token in continued(model, 1, temperature=2, top_k=5, seed=seed))
    assert set(draws) <= set(likeliest.tolist())
    shares = torch.tensor([draws[token] / 1000 for token in likeliest.tolist()])
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.064)  # 4 standard errors


def test_a_seed_gives_a_text_and_another_seed_another(tmp_path: Path) -> None:
    _, model = gpt2_of(tmp_path)
    assert continued(model, 50, seed=1) == continued(model, 50, seed=1) != continued(model, 50, seed=2)


def test_a_text_ends_where_the_document_ends(tmp_path: Path) -> None:
    _, model = gpt2_of(tmp_path, vocabulary=70)
    drawn = [continued(model, 60, temperature=1000, seed=seed) for seed in range(8)]  # each of the 70 is as likely
    assert min(map(len, drawn)) < 60 and all(0 not in tokens for tokens in drawn)


def test_rows_without_a_token_are_never_drawn(tmp_path: Path) -> None:
    _, model = gpt2_of(tmp_path, vocabulary=70)
    with torch.no_grad():
        model.tokens.weight[70:] = 100.0
    assert max(continued(model, 100, temperature=2)) < 70


def test_characters_come_whole() -> None:
    text = "a€é😀!"
    pieces = list(texts.decoded(tokenizer.Bytes(), [], text.encode()))
    assert "".join(pieces) == text and "😀" in pieces
    torn = list(texts.decoded(tokenizer.Bytes(), list(b"x"), text.encode()[:-3]))
    assert "".join(torn) == "xa€é\ufffd"


def test_make_sample_writes_the_prompt_and_what_follows(tmp_path: Path) -> None:
    run, model = gpt2_of(tmp_path)
    words = [str(run.path), "--prompt=AB", "--tokens=20", "--temperature=0", "--seed=3"]
    said = bytes([65, 66, *continued(model, 20, temperature=0)]).decode(errors="replace")
    assert started(tmp_path, "gpt2/sample.py", *words) == (0, said + "\n", "")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("--tokens=-1", "argument --tokens: '-1': expected a whole number"),
        ("--temperature=hot", "argument --temperature: 'hot': expected a number from 0 on"),
        ("--temperature=nan", "argument --temperature: 'nan': expected a number from 0 on"),
        ("--loud", "unrecognized arguments: --loud"),
    ],
)
def test_a_slip_is_one_line(tmp_path: Path, word: str, reason: str) -> None:
    assert started(tmp_path, "gpt2/sample.py", "a-run", word) == (2, "", f"error: sample: {reason}\n")


def becoming(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that `os.execv` gets from here on."""
    taken: list[list[str]] = []

    def noted(_: str, words: Iterable[str]) -> None:
        taken.append([*words])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", noted)
    return taken


def test_makes_words_reach_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = gpt2_of(tmp_path)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "sample.py").touch()
    taken = becoming(monkeypatch)
    with pytest.raises(SystemExit):
        trained.sample(tmp_path, typed(RUN="a-run", PROMPT="a $b 'c'", TOP_K="5", SEED="2") | {"TOKENS": "9"})
    script = str(tmp_path / "gpt2" / "sample.py")
    assert taken == [[sys.executable, script, str(run.path), "--prompt=a $b 'c'", "--top-k=5", "--seed=2"]]


def test_what_sampling_would_not_read_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path, LeNet5(), MODEL="lenet5")
    with pytest.raises(Faults, match="takes no symbols"):
        trained.sample(tmp_path, typed(RUN="a-run", LEARNING_RATE="1"))
    with pytest.raises(Refused, match=r"RUN=runs/project/a-run: lenet5 makes no text"):
        trained.sample(tmp_path, typed(RUN="a-run"))


# --- export -----------------------------------------------------------------------------------------------------------


def test_a_pruned_lenet5_is_exported_with_its_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = LeNet5()
    with torch.no_grad():
        model.fc1.weight[:60] = 0
        model.conv2.weight[:4] = 0
    run = run_of(tmp_path, model, MODEL="lenet5", LENET5_BATCH_NORM=True, SEED=3)
    assert trained.export(tmp_path, typed(RUN="a-run")) == 0
    told = json.loads((run.path / "export" / "config.json").read_text())
    assert told == {
        "run": "project/a-run",
        "model": "lenet5",
        "values": {"LENET5_BATCH_NORM": True},
        "sparsity": {"fc1.weight": 0.5, "conv2.weight": 0.25},
    }
    read = LeNet5(batch_norm=told["values"]["LENET5_BATCH_NORM"])
    read.load_state_dict(load_file(run.path / "export" / "model.safetensors"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in read.state_dict().items())
    said = capsys.readouterr().out
    assert said.startswith(f"exported  {run.path}/export  (config.json, model.safetensors)\n")
    assert "pruned    48.8% of the weights below" in said  # (24000 + 600) / (48000 + 2400)
    assert "fc1.weight" in said and "50.0%" in said


def test_a_run_is_exported_again_but_nothing_of_others_is_replaced(tmp_path: Path) -> None:
    run_of(tmp_path, LeNet5(), MODEL="lenet5")
    for _ in range(2):
        assert trained.export(tmp_path, typed(RUN="a-run")) == 0
    assert trained.export(tmp_path, typed(RUN="a-run", O="out/here")) == 0
    assert {path.name for path in (tmp_path / "out" / "here").iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(Refused, match="not an empty folder"):
        trained.export(tmp_path, typed(RUN="a-run", O="out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["here"]


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "project", "a-run")
    run.keep({"config.json": json.dumps({"values": {"MODEL": "lenet5"}})})
    with pytest.raises(Refused, match="no checkpoint"):
        trained.export(tmp_path, typed(RUN="a-run"))
    assert not (run.path / "export").exists()


def test_an_exported_gpt2_says_the_same_in_transformers(tmp_path: Path) -> None:
    words = tokenizer.trained("trained", [TEXT], vocabulary=300)
    run, model = gpt2_of(tmp_path, kind="trained", vocabulary=words.vocabulary)
    texts.keep(words, run)
    status, _, complaints = started(tmp_path, "gpt2/export.py", str(run.path), "out")
    assert (status, complaints) == (0, "")
    network = GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    reader = AutoTokenizer.from_pretrained(tmp_path / "out")
    (tokens,) = words.encode([b"The cat sat <|endoftext|> on"])
    (plain,) = words.encode(["The caté sat".encode()])
    assert reader("The caté sat").input_ids == plain.tolist()
    assert reader.decode(plain) == "The caté sat" and reader.eos_token_id == words.separator
    seen = torch.tensor(tokens.astype(int))[None]
    torch.testing.assert_close(network(seen).logits, model(seen), rtol=1e-3, atol=1e-3)
    greedy = network.generate(seen[:, :4], max_new_tokens=8, do_sample=False, pad_token_id=words.separator)
    drawn = texts.continued(model, seen[0, :4].tolist(), count=8, temperature=0, top_k=0, generator=torch.Generator())
    assert greedy[0, 4:].tolist()[: len(ours := list(drawn))] == ours


def test_a_gpt2_of_bytes_is_exported_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = gpt2_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpt2/export.py", str(run.path)])
    assert gpt2_export.main() == 0
    assert {path.name for path in (run.path / "export").iterdir()} == {"config.json", "model.safetensors"}
    told = json.loads((run.path / "export" / "config.json").read_text())
    assert told["vocab_size"] == 256 and told["kilter"]["run"] == "project/a-run" and told["eos_token_id"] == 0
    assert told["activation_function"] == "gelu"


def test_a_checkpoint_of_another_shape_is_one_line(tmp_path: Path) -> None:
    run, model = gpt2_of(tmp_path)
    values = run.configuration["values"] | {"GPT2_WIDTH": 32}
    run.keep({"config.json": json.dumps({"values": values})})
    with pytest.raises(Refused, match="its checkpoint is another network's") as refusal:
        texts.load(run, model.state_dict())
    assert "\n" not in str(refusal.value)
