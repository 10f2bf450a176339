"""What of a tensor is this process's, where FSDP shards the parameters over the processes."""

from __future__ import annotations

from torch import Tensor


def own_share(tensor: Tensor) -> Tensor:
    """The part of `tensor` that is here, in its own memory; all of it where nothing is sharded."""
    share: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # DTensor takes a second to import
    return share
