"""A training step of GPT-2: our loop with three trackers on, against a bare loop of nanoGPT's structure.

Both train on the same text, with the same shapes, accumulation, clipping and log interval. Ours is `loop.fit` in a real
run with the real task, and TensorBoard, Trackio and W&B (offline) on. The bare loop tracks nothing. It has nanoGPT's
model, AdamW as configured there (fused on CUDA alone) and get_batch; or, to tell the loop from the rest, our model and
a fused AdamW. Each has a process of its own, and they take turns, a step each, so that whatever else the machine does
hits all; so do the trackers' own processes, see tracked_training.py. On a GPU it is 124M in bfloat16, compiled.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.log_call import BASE, START_S, stores  # noqa: E402  # it lies beside this file

if TYPE_CHECKING:
    from gpt2.model import GPT2
    from lib.data.text import Text

ROUNDS = 7
TOOK = "a step took "  # on a line of its own: clients, too, print
DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0  # nanoGPT's
TEXT_MIB = 1  # of the standard library's source
NANO_TEXT = "train.bin"


class Size(NamedTuple):
    """A network and its batch; a round is `log` optimizer steps of each, and the last one is logged."""

    layers: int
    heads: int
    width: int
    block: int
    vocabulary: int  # a multiple of 64, so that both have as many rows
    batch: int
    accumulation: int
    log: int
    loss_chunk: int


SIZES = {
    "tiny, 0.8M": Size(4, 4, 128, 64, 256, batch=16, accumulation=2, log=10, loss_chunk=0),
    "10.8M": Size(6, 6, 384, 256, 256, batch=2, accumulation=2, log=3, loss_chunk=0),  # nanoGPT's for Shakespeare
    "124M": Size(12, 12, 768, 1024, 50304, batch=12, accumulation=4, log=10, loss_chunk=2048),
}
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
PRECISION = "bf16" if CUDA else "fp32"


def main() -> int:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high" if CUDA else "highest")
    if len(sys.argv) > 1:
        WAYS[sys.argv[1]](SIZES[sys.argv[2]], Path(sys.argv[3]))
        return 0
    for size in ("124M",) if CUDA else ("tiny, 0.8M", "10.8M"):
        report(size, measure(size))
    return 0


def measure(size: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each round, and of processor time in it, by way."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with ExitStack() as last:
        scratch = Path(last.enter_context(tempfile.TemporaryDirectory()))
        text_of(scratch).train.astype(np.uint16).tofile(scratch / NANO_TEXT)
        children = {way: started(way, size, scratch) for way in WAYS}
        for way, child in children.items():
            last.callback(child.communicate)
            heard(child, way)
        for number in range(ROUNDS + 1):
            print(f"{size}: round {number} of {ROUNDS}", file=sys.stderr)
            sums = dict.fromkeys(WAYS, (0.0, 0.0))
            for step in range(SIZES[size].log):
                for way in WAYS if step % 2 else reversed(WAYS):
                    wall_s, cpu_s = asked(children[way], way)
                    sums[way] = sums[way][0] + wall_s, sums[way][1] + cpu_s
            for way, spent in sums.items():
                taken[way] += [spent] if number else []  # the first round warms up
    return taken


def started(way: str, size: str, scratch: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, way, size, str(scratch)], env=stores(scratch),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def asked(child: subprocess.Popen[str], way: str) -> tuple[float, float]:
    """A step of this child: its seconds, and those of processor time."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    wall_s, cpu_s = map(float, heard(child, way).split())
    return wall_s, cpu_s


def heard(child: subprocess.Popen[str], way: str) -> str:
    """What follows TOOK on the next line that has it."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(TOOK):
            return line.removeprefix(TOOK)
    raise SystemExit(f"{way} ended with status {child.wait()}")


def text_of(scratch: Path) -> Text:
    """The standard library's source as bytes, prepared in `scratch` by whoever asks first."""
    from lib.data import text

    return text.load(text.Source("stdlib", dataset_mib=TEXT_MIB), root=scratch)


def paced(steps: int) -> Iterator[None]:
    """One item for each step: a line on standard input starts it, its seconds are the answer."""
    wait: Callable[[], object] = torch.cuda.synchronize if CUDA else int
    print(TOOK, flush=True)  # nothing yet: ready
    for _ in itertools.islice(sys.stdin, steps):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        wait()
        print(f"{TOOK}{time.perf_counter() - wall_s} {time.process_time() - cpu_s}", flush=True)
    yield  # one more, not timed: our loop has ended a step when it asks for the next one's batches


def kilter(size: Size, scratch: Path) -> None:
    """What gpt2/train.py puts together, with these sizes."""
    from gpt2.task import Task
    from lib import loop, optim
    from lib.tasks import Batch, Sizes
    from lib.track.run import Run
    from lib.track.settings import Settings

    steps = size.log * (ROUNDS + 1) + 1

    class Paced(Task):
        def batches(self, first: int) -> Iterator[Batch]:
            found = super().batches(first)
            for _ in paced(steps - 1):
                yield from itertools.islice(found, size.accumulation)

    never = 1_000_000
    plan = loop.Plan(1e-3, 1e-4, 10, CLIP, size.accumulation, 0, steps, 0, size.log, never, 0, never, PRECISION, 0,
                     compile=CUDA)  # fmt: skip
    model = our_model(size)
    task = Paced(model, text_of(scratch), Sizes(size.batch, 1, 1, 0), device=DEVICE)
    optimizer = optim.build("adamw", model, optim.Settings(1e-3, DECAY, beta1=BETAS[0], beta2=BETAS[1], epsilon=1e-8))
    on: dict[str, Any] = {f"enable_{name}": True for name in BASE}  # Settings has other fields, of other types
    with Run.create(scratch, "bench", "run", texts={"config.json": "{}"}, trackers=Settings(60, **on)) as run:
        until = time.monotonic() + START_S
        while len(run.looks) < len(BASE) and time.monotonic() < until:
            print(*run.news(), sep="\n", file=sys.stderr)
            time.sleep(0.1)
        loop.fit(task, optimizer, run, plan, device=DEVICE)


def our_model(size: Size) -> GPT2:
    from gpt2.model import GPT2

    return GPT2(
        layers=size.layers, heads=size.heads, width=size.width, block_size=size.block, vocabulary=size.vocabulary,
        loss_chunk=size.loss_chunk,
    )  # fmt: skip


def bare(size: Size, scratch: Path, model: nn.Module, *, fused: bool) -> None:
    """The loop of nanoGPT's train.py: the next batch is fetched after each forward pass, the loss is read at a log."""
    from lib.loop import autocast

    model.to(DEVICE)
    optimizer = torch.optim.AdamW(groups(model), 1e-3, BETAS, fused=fused)
    run: Any = torch.compile(model) if CUDA else model  # the compiled one has another type
    batch = get_batch(scratch / NANO_TEXT, size)
    for step, _ in enumerate(paced(size.log * (ROUNDS + 1)), 1):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 10)
        for _ in range(size.accumulation):
            with autocast(DEVICE, PRECISION):
                loss = run(*batch) / size.accumulation
            batch = get_batch(scratch / NANO_TEXT, size)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % size.log == 0:
            print(f"iter {step}: loss {loss.item() * size.accumulation:.4f}")


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """nanoGPT's configure_optimizers: what has two dimensions decays."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def get_batch(path: Path, size: Size) -> tuple[Tensor, Tensor]:
    """nanoGPT's: the file is mapped anew for each batch, and each row copied by itself."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    ix = torch.randint(len(data) - size.block, (size.batch,))
    x = torch.stack([torch.from_numpy((data[i : i + size.block]).astype(np.int64)) for i in ix])
    y = torch.stack([torch.from_numpy((data[i + 1 : i + 1 + size.block]).astype(np.int64)) for i in ix])
    if CUDA:
        return x.pin_memory().to(DEVICE, non_blocking=True), y.pin_memory().to(DEVICE, non_blocking=True)
    return x, y


class NanoBlock(nn.Module):
    """A block of nanoGPT's model.py, without biases and dropout, as it is configured there."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        b, t, c = x.shape
        parts = self.c_attn(self.ln_1(x)).split(c, dim=2)  # (B, T, C) -> 3 x (B, T, C)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in parts)  # (B, heads, T, …)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).contiguous().view(b, t, c))
        out: Tensor = x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))
        return out


class NanoGPT(nn.Module):
    """nanoGPT's GPT, as far as training goes; its initial values do not matter for its speed."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(size.vocabulary, size.width), nn.Embedding(size.block, size.width)
        self.h = nn.ModuleList(NanoBlock(size) for _ in range(size.layers))
        self.ln_f = nn.LayerNorm(size.width, bias=False)
        self.lm_head = nn.Linear(size.width, size.vocabulary, bias=False)
        for weight in (self.wte.weight, self.wpe.weight):
            nn.init.normal_(weight, std=0.02)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Mean loss () at `targets` (B, T) of `idx` (B, T)."""
        pos = torch.arange(idx.shape[1], device=idx.device)
        x = self.wte(idx) + self.wpe(pos)  # (B, T) -> (B, T, C)
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))  # (B, T, C) -> (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)


PEER = "nanoGPT's loop and model"
WAYS: dict[str, Callable[[Size, Path], None]] = {
    PEER: lambda size, scratch: bare(size, scratch, NanoGPT(size), fused=CUDA),
    "its loop, our model, fused AdamW": lambda size, scratch: bare(size, scratch, our_model(size), fused=True),
    "kilter, 3 trackers": kilter,
}


def report(name: str, taken: dict[str, list[tuple[float, float]]]) -> None:
    """The median of the rounds with their range, and of a round's ratio to the peer's."""
    size = SIZES[name]
    tokens = size.batch * size.block * size.accumulation * size.log
    where = torch.cuda.get_device_name() if CUDA else "CPU, 1 thread"
    print(f"{f'GPT-2 {name}, {where}':<36}{'[tokens/s]':>24}{'/ nanoGPT':>22}{'by processor time':>22}")
    for way, rounds in taken.items():
        pairs = list(zip(rounds, taken[PEER], strict=True))
        rates = spread([tokens / wall_s for wall_s, _ in rounds], ".0f", "")
        ratios = [spread([theirs[clock] / ours[clock] for ours, theirs in pairs], ".2f", " x") for clock in (0, 1)]
        print(f"{way:<36}{rates:>24}{ratios[0]:>22}{ratios[1]:>22}")


def spread(values: list[float], form: str, unit: str) -> str:
    low, middle, high = (f"{value:{form}}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} [{low}-{high}]"


if __name__ == "__main__":
    sys.exit(main())
