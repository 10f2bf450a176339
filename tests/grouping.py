"""Processes that talk to each other over gloo, for tests: each runs one function, and its answers come back by rank."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from lib import dist

T = TypeVar("T")
HEAVY = ["torch._dynamo", "torch.distributed.fsdp"]  # imported once and not by each process


def by_rank(job: Callable[[], T], *, world: int) -> list[T]:
    """What `job`, a module's function, returns in each of `world` processes, which have joined; it must pickle."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(HEAVY)
    pipes = [started.Pipe(duplex=False) for _ in range(world)]
    members = [
        started.Process(target=_member, args=(job, meet | {"RANK": str(rank)}, answer))
        for rank, (_, answer) in enumerate(pipes)
    ]
    for member in members:
        member.start()
    answers = []
    for member, (receiver, answer) in zip(members, pipes, strict=True):
        answer.close()  # so that one who dies is not waited for
        assert receiver.poll(150), f"{member.name} said nothing"
        answers.append(receiver.recv())
        member.join(30)
        assert member.exitcode == 0
    return answers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _member(job: Callable[[], T], place: Mapping[str, str], answer: Connection) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    with dist.joined(torch.device("cpu")):
        answer.send(job())
