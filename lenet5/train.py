"""Train LeNet-5: the options become a network, a task, an optimizer and a run, and the loop trains them."""

from __future__ import annotations

import os
import sys
from functools import partial

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make small models 4-8 times slower

from lib import errors, kconf, options


def main() -> int:
    opts = options.load("lenet5", front_end=kconf)

    import torch  # from here on it takes seconds; --help and a wrong flag are answered before

    from lenet5.model import IMAGE_SIZE, LeNet5
    from lenet5.task import Task
    from lib import capacity, dist, evaluate, forecast, gpu, loop, optim, prune, session
    from lib.data import images
    from lib.tasks import Sizes
    from lib.track.settings import Settings

    device = dist.device(opts.device, threads=opts.threads)
    plan, sizes, batches = opts.fill(loop.Plan), opts.fill(Sizes), opts.fill(capacity.Batches)
    data = images.load(opts.fill(images.Source), size=IMAGE_SIZE, root=options.ROOT)
    torch.manual_seed(opts.seed)
    model = LeNet5(batch_norm=opts.batch_norm, in_channels=data.channels, classes=data.classes)

    optimizer_of = partial(optim.build, opts.optimizer, settings=opts.fill(optim.Settings))
    trial = {"precision": opts.precision, "shared": opts.parallel == "fsdp"}
    need = partial(capacity.measured, model, [data.train_x[:1].float()], optimizer_of, **trial)
    if opts.dry_run:
        show = partial(forecast.show, samples=len(data.train_x), unit="images")
        return show(model, batches, plan, need, processes=opts.dry_run, device=device, gpus=opts.gpus)
    if opts.evaluates:
        task = Task(model, data, sizes, device=device, rank=dist.rank(), world=dist.world())
        return evaluate.again(task, opts.evaluates, device, data=data.fingerprint, precision=opts.precision)

    with session.opened(opts.record(), opts.fill(Settings), device, data=data.fingerprint) as run:
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
