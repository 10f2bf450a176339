"""Train a GPT-2: the options become a network, a task, an optimizer and a run, and the loop trains them."""

from __future__ import annotations

import os
import sys
from functools import partial

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make small models 4-8 times slower

from lib import errors, kconf, options


def main() -> int:
    opts = options.load("gpt2", front_end=kconf)

    import torch  # from here on it takes seconds; --help and a wrong flag are answered before

    from gpt2 import pretrained, trained
    from gpt2.model import GPT2
    from gpt2.task import Task, check_fits
    from lib import capacity, dist, evaluate, forecast, gpu, loop, optim, prune, session
    from lib.data import text
    from lib.tasks import Sizes
    from lib.track.settings import Settings

    device = dist.device(opts.device, threads=opts.threads)
    plan, sizes, batches = opts.fill(loop.Plan), opts.fill(Sizes), opts.fill(capacity.Batches)
    source = opts.fill(text.Source)
    data = None if opts.dry_run else text.load(source, root=options.ROOT)  # to plan needs no text
    torch.manual_seed(opts.seed)
    model = GPT2(
        layers=opts.layers, heads=opts.heads, width=opts.width, block_size=opts.block_size, dropout=opts.dropout,
        bias=opts.bias, gelu_tanh=opts.gelu_tanh, loss_chunk=opts.loss_chunk,
        vocabulary=data.vocabulary if data else text.vocabulary(source),
    )  # fmt: skip
    row = torch.zeros(1, opts.block_size, dtype=torch.long)

    optimizer_of = partial(optim.build, opts.optimizer, settings=opts.fill(optim.Settings))
    trial = {"precision": opts.precision, "shared": opts.parallel == "fsdp"}
    need = partial(capacity.measured, model, [row, row], optimizer_of, **trial)
    if data is None:
        show = partial(forecast.show, samples=None, unit="tokens", per_sample=opts.block_size)
        return show(model, batches, plan, need, processes=opts.dry_run, device=device, gpus=opts.gpus)
    check_fits(data, opts.block_size)
    if opts.evaluates:
        task = Task(model, data, sizes, device=device, rank=dist.rank(), world=dist.world())
        return evaluate.again(task, opts.evaluates, device, data=data.fingerprint, precision=opts.precision)
    if opts.init_from:
        pretrained.load(model, opts.init_from)

    with session.opened(opts.record(), opts.fill(Settings), device, data=data.fingerprint) as run:
        if dist.rank() == 0 and data.tokenizer:
            trained.keep(data.tokenizer, run.store)
        batch = capacity.at_start(batches, need, run.store, device)
        task = Task(model, data, batch.into(sizes), device=device, rank=dist.rank(), world=dist.world())
        dist.share(model, opts.parallel)
        optimizer = optimizer_of(model)
        pruner = prune.build(opts.pruning, model, opts.fill(prune.Settings), moments=optim.moments(optimizer))
        monitor = gpu.monitor(
            run.store.job.path, opts.fill(gpu.Settings), device=device, unit=task.unit, **dist.place()
        )
        return loop.fit(task, optimizer, run, batch.into(plan), device=device, pruner=pruner, monitor=monitor)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
