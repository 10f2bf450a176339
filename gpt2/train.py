"""Train a GPT-2: the options become a network, a task, an optimizer and a run, and the loop trains them."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make small models 4-8 times slower

from lib import errors, kconf, options


def main() -> int:
    opts = options.load("gpt2", front_end=kconf)

    import torch  # from here on it takes seconds; --help and a wrong flag are answered before

    from gpt2.model import GPT2
    from gpt2.task import Task, check_fits
    from lib import dist, loop, optim, session
    from lib.data import text
    from lib.tasks import Sizes
    from lib.track.settings import Settings

    device = dist.device(opts.device)
    plan = opts.fill(loop.Plan)
    data = text.load(opts.dataset, mib=opts.get("dataset_mib"), root=options.ROOT)
    check_fits(data, opts.block_size)
    torch.manual_seed(opts.seed)
    model = GPT2(
        layers=opts.layers,
        heads=opts.heads,
        width=opts.width,
        block_size=opts.block_size,
        vocabulary=data.vocabulary,
        dropout=opts.dropout,
        bias=opts.bias,
    )

    with session.opened(opts.record(), opts.fill(Settings), device, data=data.fingerprint) as run:
        task = Task(model, data, opts.fill(Sizes), device=device, rank=dist.rank(), world=dist.world())
        optimizer = optim.build(opts.optimizer, model, opts.fill(optim.Settings))
        return loop.fit(task, optimizer, run, plan, device=device)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
