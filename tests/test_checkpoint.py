"""Checkpoints: what goes in comes out bit for bit, damage is noticed and passed over, and a kill leaves whole ones."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib import checkpoint
from lib.errors import Refused
from lib.options import ROOT


def model(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((8, 4), value), "bias": torch.arange(4.0)}


def save(folder: Path, kind: checkpoint.Kind, step: int, **more: Any) -> Path:
    training = None if kind == "best" else {"momentum": torch.full((8, 4), -float(step)), "time_s": step / 3}
    return checkpoint.save(folder, kind, step, model=model(step), training=training, meta={"world": 1}, **more)


def names(folder: Path) -> list[str]:
    return sorted(f"{kind} {int(step)}" for kind, step in (path.name.split("-") for path in folder.iterdir()))


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


def test_what_is_saved_is_what_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat = torch.randn(12)
    weights = {
        "half": torch.randn(3, 5, dtype=torch.bfloat16), "mask": torch.rand(7) > 0.5, "count": torch.tensor(3),
        "nothing": torch.zeros(0, 3), "turned": torch.randn(4, 6).t(), "first": flat[:5], "second": flat[5:],
        "image": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "odd": torch.tensor([0.1, -0.0, 1e-42]),
    }  # fmt: skip
    training = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3)}}, "lr": 0.1 + 0.2, "ends": None}
    checkpoint.save(tmp_path, "last", 7, model=weights, training=training, meta={"world": 2, "val_loss": float("nan")})
    saved = checkpoint.latest(tmp_path)
    assert saved and saved.step == 7 and saved.meta["world"] == 2 and saved.passed_over == []
    loaded, state = saved.load()
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert loaded[name].contiguous().flatten().view(torch.uint8).equal(
            tensor.contiguous().flatten().view(torch.uint8)
        )  # fmt: skip
    assert state["lr"] == 0.1 + 0.2 and state["ends"] is None
    assert torch.equal(state["state"][0]["exp_avg"], training["state"][0]["exp_avg"])


def test_a_training_that_went_through_a_checkpoint_has_the_same_bits(tmp_path: Path) -> None:
    def network() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        return net, torch.optim.AdamW(net.parameters(), lr=0.1, amsgrad=True)

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            net(torch.linspace(-1, 1, 24).view(6, 4) + step).square().mean().backward()
            optimizer.step()

    whole, first, second = network(), network(), network()
    train(*whole, range(20))
    train(*first, range(9))
    state = {"optimizer": first[1].state_dict()}
    checkpoint.save(tmp_path, "last", 9, model=first[0].state_dict(), training=state, meta={})
    saved = checkpoint.latest(tmp_path)
    assert saved
    weights, training = saved.load()
    second[0].load_state_dict(weights)
    second[1].load_state_dict(training["optimizer"])
    train(*second, range(9, 20))
    assert all(
        torch.equal(a, b) for a, b in zip(*(net[0].state_dict().values() for net in (whole, second)), strict=True)
    )


def test_a_tied_tensor_is_on_disk_once_and_one_tensor_again(tmp_path: Path) -> None:
    shared = torch.randn(100, 10)
    path = checkpoint.save(tmp_path, "best", 1, model={"wte": shared, "head": shared}, training=None, meta={})
    loaded = checkpoint.weights(tmp_path)
    assert loaded["wte"] is loaded["head"] and torch.equal(loaded["head"], shared)
    assert (path / checkpoint.WEIGHTS).stat().st_size < 4 * 1000 + 500


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.TRAINING])
def test_a_flipped_bit_or_a_missing_end_is_noticed_and_the_checkpoint_before_taken(tmp_path: Path, name: str) -> None:
    save(tmp_path, "last", 10)
    path = save(tmp_path, "last", 20)
    whole = (path / name).read_bytes()
    chance = random.Random(0)
    for _ in range(40):
        if chance.random() < 0.5:
            flip(path / name, chance.randrange(8 * len(whole)))
        else:
            (path / name).write_bytes(whole[: chance.randrange(len(whole))])
        saved = checkpoint.latest(tmp_path)
        assert saved and saved.step == 10 and torch.equal(saved.load()[0]["weight"], torch.full((8, 4), 10.0))
        (line,) = saved.passed_over
        assert "last-00000020 is damaged and passed over: " + name in line and "\n" not in line
        (path / name).write_bytes(whole)
    saved = checkpoint.latest(tmp_path)
    assert saved and saved.step == 20


def test_no_flipped_bit_of_what_describes_a_checkpoint_changes_what_is_read(tmp_path: Path) -> None:
    save(tmp_path, "last", 10)
    path = save(tmp_path, "last", 20) / checkpoint.META
    whole = path.read_bytes()
    meant = json.loads(whole)
    for bit in range(0, 8 * len(whole), 7):
        flip(path, bit)
        saved = checkpoint.latest(tmp_path)
        assert saved
        if saved.step == 20:  # a space became another one
            assert saved.meta == {name: value for name, value in meant.items() if name != "sha256"}
        else:
            assert saved.step == 10 and len(saved.passed_over) == 1
        path.write_bytes(whole)
    for broken in (b"", b"[1]", whole[:-30]):
        path.write_bytes(broken)
        saved = checkpoint.latest(tmp_path)
        assert saved and saved.step == 10


def test_a_checkpoint_under_another_name_or_without_a_file_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, "last", 10)
    save(tmp_path, "last", 20).rename(tmp_path / "last-00000030")
    shutil.copytree(tmp_path / "last-00000010", tmp_path / "step-00000040")
    (save(tmp_path / "other", "last", 50) / checkpoint.TRAINING).unlink()
    (tmp_path / "other" / "last-00000050").rename(tmp_path / "last-00000050")
    saved = checkpoint.latest(tmp_path)
    assert saved and saved.step == 10
    assert [line.partition(" is ")[0][-2:] for line in saved.passed_over] == ["50", "40", "30"]


def test_none_is_not_the_same_as_none_that_can_be_used(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "no folder") is None and checkpoint.latest(tmp_path) is None
    with pytest.raises(Refused, match="there is no checkpoint yet"):
        checkpoint.weights(tmp_path)
    save(tmp_path, "best", 5)
    assert checkpoint.latest(tmp_path) is None
    for step in (10, 20):
        flip(save(tmp_path, "last", step) / checkpoint.WEIGHTS, 900)
    with pytest.raises(
        Refused, match=r"20 is damaged[^\n]*\n[^\n]*10 is damaged[^\n]*\n[^\n]*RESUME=n starts a new run$"
    ):
        checkpoint.latest(tmp_path)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "last", 1, model=model(1), training={"path": Path("x")}, meta={})
    saved = checkpoint.latest(tmp_path)
    assert saved
    with pytest.raises(Refused, match="last-00000001: this checkpoint can't be used"):
        saved.load()


def test_the_newest_and_as_many_older_ones_as_were_asked_for_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, "step", step - 5)
        save(tmp_path, "last", step, keep=2)
    assert names(tmp_path) == ["last 20", "last 30", "last 40", "step 15", "step 25", "step 35", "step 5"]
    save(tmp_path, "last", 50, keep=0)
    assert names(tmp_path) == ["last 50", "step 15", "step 25", "step 35", "step 5"]


def test_the_best_before_stays_until_training_can_go_on_from_behind_the_new_one(tmp_path: Path) -> None:
    """Else a run that is killed now would go on from step 20 without its best weights, those of step 20."""
    save(tmp_path, "best", 20)
    save(tmp_path, "last", 20)
    save(tmp_path, "best", 30)
    assert names(tmp_path) == ["best 20", "best 30", "last 20"]
    save(tmp_path, "best", 35)
    assert names(tmp_path) == ["best 20", "best 35", "last 20"]
    save(tmp_path, "last", 40)
    assert names(tmp_path) == ["best 35", "last 20", "last 40"]


def test_what_is_later_than_a_new_checkpoint_is_of_a_life_that_is_void(tmp_path: Path) -> None:
    for kind in ("step", "best", "last"):
        save(tmp_path, kind, 20)
        save(tmp_path, kind, 30)
    flip(tmp_path / "last-00000030" / checkpoint.WEIGHTS, 900)
    save(tmp_path, "last", 25)
    assert names(tmp_path) == ["last 20", "last 25", "step 20"]


def test_a_checkpoint_is_replaced_by_one_of_the_same_step(tmp_path: Path) -> None:
    flip(save(tmp_path, "last", 10) / checkpoint.WEIGHTS, 900)
    save(tmp_path, "last", 10)
    assert names(tmp_path) == ["last 10"]
    saved = checkpoint.latest(tmp_path)
    assert saved and saved.passed_over == []


def test_the_best_weights_are_preferred_to_the_last_and_sound_ones_to_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "best", 10)
    save(tmp_path, "last", 20)
    save(tmp_path, "step", 20)
    assert checkpoint.best(tmp_path).path.name == "best-00000010" and checkpoint.weights(tmp_path)["weight"][0, 0] == 10
    assert checkpoint.best(tmp_path).load()[1] == {}
    flip(tmp_path / "best-00000010" / checkpoint.WEIGHTS, 900)
    saved = checkpoint.best(tmp_path)
    assert saved.path.name == "last-00000020" and len(saved.passed_over) == 1
    assert checkpoint.weights(tmp_path)["weight"][0, 0] == 20
    assert "best-00000010 is damaged and passed over" in capsys.readouterr().err


def test_a_best_checkpoint_that_is_replaced_while_it_is_read_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "best", 10)
    real = checkpoint._sha256

    def and_meanwhile(path: Path) -> str:
        monkeypatch.setattr(checkpoint, "_sha256", real)
        save(tmp_path, "best", 20)
        return real(path)

    monkeypatch.setattr(checkpoint, "_sha256", and_meanwhile)
    saved = checkpoint.best(tmp_path)
    assert saved.step == 20 and saved.passed_over == []


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, "last", 10)
    big = torch.zeros(1 << 16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for weights, training in (({"w": big}, {}), (model(1), {"state": big})):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        try:
            with pytest.raises(OSError, match="last-00000020"):
                checkpoint.save(tmp_path, "last", 20, model=weights, training=training, meta={})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert names(tmp_path) == ["last 10"]


KILLED = """
import itertools, os, shutil, sys
from pathlib import Path
import torch
from lib import checkpoint

home = Path(sys.argv[1])

def save(folder, kind, step):
    training = None if kind == "best" else {"step": torch.tensor(step)}
    checkpoint.save(folder, kind, step, model={"w": torch.full((3,), float(step))}, training=training, meta={})

def sound(folder, steps, best):
    saved = checkpoint.latest(folder)
    weights, training = saved.load()
    assert saved.passed_over == [] and saved.step in steps, (saved, steps)
    assert weights["w"][0] == saved.step == training["step"]
    saved = checkpoint.best(folder)
    assert saved.passed_over == [] and saved.meta["kind"] == "best" and saved.step in best, saved
    return saved.step

def killed_at(folder, events, kind, step):
    left = events
    def hook(name, arguments):
        nonlocal left
        left -= name in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")
        if left < 0:
            os._exit(9)  # nothing is cleaned up, as after SIGKILL
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        save(folder, kind, step)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

for kind, steps, best in (("last", {30, 40}, {25}), ("best", {30}, {25, 40})):
    for events in itertools.count():
        folder = home / f"{kind}-{events}"
        for earlier in (("last", 10), ("best", 20), ("last", 20), ("best", 25), ("last", 30)):
            save(folder, *earlier)
        going = killed_at(folder, events, kind, 40)
        sound(folder, steps, best)
        save(folder, "best", 40)
        save(folder, "last", 40)
        assert {path.name for path in folder.iterdir()} == {"last-00000030", "last-00000040", "best-00000040"}
        shutil.rmtree(folder)
        if not going:
            break
    assert events > 12, events  # of them are tried, at least
"""


def test_after_a_kill_at_any_moment_of_a_save_there_is_a_sound_checkpoint_and_no_rest(tmp_path: Path) -> None:
    """The saving process ends, without a clean-up, before its first file operation, before its second, and so on."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
