"""Optimizers over two processes that share the parameters, as FSDP does: the same steps as one that has them all."""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing.connection import Connection

import torch
import torch.distributed as group
from test_optim import SETTINGS
from torch import nn

from lib import optim

STEPS, SKIPPED = 6, 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


def trained(model: nn.Module, name: str) -> nn.Module:
    """By the same batches on each process, so that the mean of the gradients is the gradient."""
    optimizer = optim.build(name, model, SETTINGS)
    for step in range(STEPS):
        batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(batch).square().mean().backward()
        optimizer.found_inf = torch.tensor(float(step == SKIPPED))  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    return model


def worker(rank: int, port: int, answers: Connection) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = group.init_device_mesh("cpu", (2,))
    for name in optim.OPTIMIZERS:
        model = network()
        fully_shard(model, mesh=mesh)
        whole = [weight.full_tensor() for weight in trained(model, name).parameters()]  # type: ignore[attr-defined]
        alone = list(trained(network(), name).parameters())
        apart = max(float((one - other).abs().max()) for one, other in zip(whole, alone, strict=True))
        answers.send((name, apart))
    group.destroy_process_group()


def test_two_processes_that_share_the_parameters_take_the_steps_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["torch.distributed.fsdp"])  # imported once and not twice
    pipes = [started.Pipe(duplex=False) for _ in range(2)]
    workers = [started.Process(target=worker, args=(rank, port, pipes[rank][1])) for rank in range(2)]
    for process in workers:
        process.start()
    apart = {}
    for _ in optim.OPTIMIZERS:
        assert pipes[0][0].poll(150), "the first process said nothing"
        name, distance = pipes[0][0].recv()
        apart[name] = distance
    for process in workers:
        process.join(30)
        assert process.exitcode == 0
    assert apart.keys() == optim.OPTIMIZERS.keys()
    assert max(apart.values()) <= 1e-7
