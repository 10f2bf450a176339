"""Gradients that are not finite, or far larger than usual: found on the device, told at the next log."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.errors import Refused

MEMORY = 0.99  # of the usual norm: it looks back about 100 steps
FIRST = 20  # steps from which on there is a usual norm


class Guard:
    """Judges each step by the norm of its gradient, a 0-dimensional tensor on the device; nothing is read there.

    `mode` is off, warn, skip or stop; `spike_factor` 0 finds only what is not finite. With a `scaled` loss that is left
    to the scaler: finding its limit overflows now and then, and it leaves those steps out itself.
    """

    def __init__(self, mode: str, spike_factor: float, device: torch.device, *, scaled: bool = False) -> None:
        self.skips = mode in ("skip", "stop")
        self._mode, self._factor, self._scaled = mode, spike_factor, scaled
        self._usual = torch.zeros((), device=device)  # mean norm; a spike counts as the largest that is none
        self._good = torch.zeros((), device=device)  # how many there were
        self._bad = torch.zeros((), device=device)  # steps since the last `report`

    def judge(self, norm: Tensor) -> Tensor | None:
        """1.0 when the step with this gradient norm is a bad one, else 0.0; None when nobody looks."""
        if self._mode == "off":
            return None
        finite = torch.isfinite(norm)
        bad = torch.zeros_like(finite) if self._scaled else ~finite
        if self._factor:
            bad |= finite & (self._good >= FIRST) & (norm > self._factor * self._usual)
            kept = torch.where(self._good > 0, MEMORY, 0.0)
            seen = torch.where(bad, self._factor * self._usual, norm)  # a lasting rise becomes usual in the end
            self._usual = torch.where(finite, self._usual * kept + seen * (1 - kept), self._usual)
            self._good += finite & ~bad
        self._bad += bad
        return bad.float()

    def report(self, step: int) -> str:
        """What to say at the log of `step`, or "".

        Raises:
            Refused: there was a bad step, and the run is to end then.
        """
        if self._mode == "off" or not (count := int(self._bad)):
            return ""
        self._bad.zero_()
        what = "spikes or not finite" if self._factor else "not finite"
        found = f"step {step}: since the last log, {count} gradient{'s that were' if count > 1 else ' that was'} {what}"
        if self._mode == "stop":
            raise Refused(
                f"{found}; GUARD=stop. The weights before are in the last checkpoint. "
                "Lower LEARNING_RATE, set GRAD_CLIP, or GUARD=skip"
            )
        return f"warning: {found}; {'left out' if self.skips else 'GUARD=skip would leave them out'}"

    def state_dict(self) -> dict[str, Tensor]:
        return {"usual": self._usual, "good": self._good, "bad": self._bad}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._usual.copy_(state["usual"])
        self._good.copy_(state["good"])
        self._bad.copy_(state["bad"])
