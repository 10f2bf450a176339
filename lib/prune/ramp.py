"""How sparsity rises: none during the warm-up, then a cubic up to the target, which holds to the end."""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import Refused

WARMUP_SHARE, END_SHARE = 0.1, 0.75  # of the run, where no step is given


class BadPruning(Refused, ValueError):
    """A pruning that is not here, or whose settings contradict each other or the model."""


@dataclass(frozen=True)
class Ramp:
    """From sparsity 0 at step `begin` to `target` at step `end`."""

    target: float
    begin: int
    end: int
    schedule: str  # "cubic", "late-cubic"

    def sparsity(self, step: int) -> float:
        """Share of zeros that `step` should leave.

        cubic is Zhu & Gupta's (arXiv 1710.01878, equation 1), target (1 - (1-p)^3) at the share p of the ramp;
        late-cubic AdamWPrune's, target p^3.
        """
        done = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.target * (1 - (1 - done) ** 3 if self.schedule == "cubic" else done**3)


def ramp(target: float, schedule: str, *, warmup: int, end: int, steps: int) -> Ramp:
    """The ramp of a run of `steps`; a `warmup` of -1 is a tenth of the run, an `end` of 0 three quarters.

    Raises:
        BadPruning: it would end before it begins, or after the run.
    """
    begin = warmup if warmup >= 0 else int(WARMUP_SHARE * steps)
    last = end or max(1, int(END_SHARE * steps))
    if last > steps:
        raise BadPruning(
            f"PRUNING_RAMP_END={end}: the run has {steps} steps. Use at most {steps}, or 0 (three quarters)"
        )
    if begin >= last:
        raise BadPruning(
            f"PRUNING_WARMUP={begin}: the ramp ends at step {last}, before it begins. "
            "Lower it, or -1 (a tenth of the run), or raise PRUNING_RAMP_END"
        )
    return Ramp(target, begin, last, schedule)
