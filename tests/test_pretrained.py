"""GPT-2's weights to and from Hugging Face's transformers: the same logits in both, from a folder and from a hub."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, logging

from gpt2 import pretrained
from gpt2.model import GPT2
from lib.errors import Refused
from lib.options import ROOT

SIZES = {"layers": 2, "heads": 4, "width": 32, "block_size": 16, "vocabulary": 100}
PUBLISHED = {"bias": True, "gelu_tanh": True}
TOKENS = torch.arange(30).reshape(2, 15) * 7 % 100
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def ours(**changes: int) -> GPT2:
    torch.manual_seed(1)
    return GPT2(**(SIZES | PUBLISHED | changes)).eval()


def randomized(model: torch.nn.Module) -> None:
    """Every parameter at random, so that none is 0 or 1 by chance of its initialization."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def theirs(folder: Path) -> GPT2LMHeadModel:
    """A random GPT-2 of transformers, saved in `folder`."""
    config = GPT2Config(vocab_size=100, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    model = GPT2LMHeadModel(config).eval()
    randomized(model)
    model.save_pretrained(folder)
    return model


def exported(model: GPT2, folder: Path) -> GPT2LMHeadModel:
    """What transformers makes of our network."""
    pretrained.save(model.state_dict(), folder, heads=4, gelu_tanh=model.gelu_tanh, vocabulary=100, end=0, about={})
    read, told = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    return read.eval()


def test_a_network_of_transformers_has_the_same_logits_here(tmp_path: Path) -> None:
    expected = theirs(tmp_path)(TOKENS).logits
    model = ours()
    pretrained.load(model, str(tmp_path))
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-4, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    torch.testing.assert_close(model(TOKENS[:, :-1], TOKENS[:, 1:]), loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bias", "gelu_tanh"), [(True, True), (False, True), (False, False)])
def test_a_network_of_ours_has_the_same_logits_in_transformers(tmp_path: Path, bias: bool, gelu_tanh: bool) -> None:
    model = ours(bias=bias, gelu_tanh=gelu_tanh)
    randomized(model)
    read = exported(model, tmp_path)
    torch.testing.assert_close(read(TOKENS).logits, model(TOKENS), rtol=1e-4, atol=1e-4)
    assert read.config.n_head == 4 and read.config.eos_token_id == 0


def test_out_and_in_again_is_the_same_to_the_bit(tmp_path: Path) -> None:
    model, again = ours(), ours()
    randomized(model)
    exported(model, tmp_path)
    pretrained.load(again, str(tmp_path))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor[:100], model.state_dict()[name][:100]), name


def test_a_shorter_block_keeps_the_first_positions(tmp_path: Path) -> None:
    expected = theirs(tmp_path)(TOKENS[:, :8]).logits
    model = ours(block_size=8)
    pretrained.load(model, str(tmp_path))
    torch.testing.assert_close(model(TOKENS[:, :8]), expected, rtol=1e-4, atol=1e-4)


def test_another_shape_is_refused_with_all_that_must_be_set(tmp_path: Path) -> None:
    theirs(tmp_path)
    model = ours(layers=3, heads=2, width=64, block_size=32, bias=False, gelu_tanh=False, vocabulary=256)
    with pytest.raises(Refused) as refusal:
        pretrained.load(model, str(tmp_path))
    told = str(refusal.value)
    assert told.startswith(f"GPT2_INIT_FROM={tmp_path}: is of another shape. Set GPT2_LAYERS=2, not 3; GPT2_HEADS=4")
    for part in ("GPT2_WIDTH=32, not 64", "GPT2_BLOCK_SIZE=16 at most", "GPT2_BIAS=y", "100 tokens, not 256"):
        assert part in told
    assert "GPT2_GELU_TANH=y" in told and "\n" not in told


@pytest.mark.parametrize(
    ("activation", "wanted"), [("gelu", "GPT2_GELU_TANH=n"), ("relu", "a network with gelu or gelu_new, not relu")]
)
def test_another_activation_is_refused(tmp_path: Path, activation: str, wanted: str) -> None:
    theirs(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("gelu_new", activation))
    with pytest.raises(Refused) as refusal:
        pretrained.load(ours(), str(tmp_path))
    assert str(refusal.value) == f"GPT2_INIT_FROM={tmp_path}: is of another shape. Set {wanted}"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    theirs(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Refused, match=r"GPT2_INIT_FROM=.*that can be read"):
        pretrained.load(ours(), str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(Refused, match=r"GPT2_INIT_FROM=.*that can be read"):
        pretrained.load(ours(), str(tmp_path))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The endpoint of a hub with one model, me/little."""
    theirs(tmp_path / "hub")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = tmp_path / "hub" / self.path.removeprefix("/me/little/resolve/main/")
            known = self.path.startswith("/me/little/resolve/main/") and found.is_file()
            content = found.read_bytes() if known else b""
            self.send_response(200 if known else 404)
            facts = (
                {"X-Repo-Commit": "0" * 40, "ETag": f'"{found.name}"'} if known else {"X-Error-Code": "RepoNotFound"}
            )
            for name, value in (facts | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOAD = """
import sys, torch
from gpt2 import pretrained
from gpt2.model import GPT2
from lib.errors import guarded
def main():
    model = GPT2(layers=2, heads=4, width=32, block_size=16, vocabulary=100, bias=True, gelu_tanh=True).eval()
    pretrained.load(model, sys.argv[1])
    print(model(torch.arange(15)[None]).sum().item())
    return 0
sys.exit(guarded(main))
"""


def loading(name: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its variables once."""
    told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOAD, name]
    return subprocess.run(command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, check=False)


def test_a_name_is_fetched_from_the_hub_once(hub: str, tmp_path: Path) -> None:
    expected = GPT2LMHeadModel.from_pretrained(tmp_path / "hub").eval()(torch.arange(15)[None]).logits.sum().item()
    done = loading("me/little", hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, rel=1e-3)
    assert list((tmp_path / "home").rglob("model.safetensors"))


def test_a_name_that_the_hub_does_not_have_is_one_line(hub: str, tmp_path: Path) -> None:
    done = loading("me/nothing", hub, tmp_path / "home")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: me/nothing: can't be read from {hub}")
    assert 'GPT2_INIT_FROM="", random weights' in done.stderr
