"""What `Accelerator.init_trackers(init_kwargs=…)` tells each tracker, in the words of our settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.track.settings import Settings

OURS = {  # tracker -> what its init calls an option, where that is not our word; "name" is the run's in that tracker
    "mlflow": {"experiment_name": "experiment", "run_name": "name", "description": "notes"},
    "comet_ml": {"project_name": "project"},
    "clearml": {"project_name": "project", "task_name": "name"},
    "swanlab": {"experiment_name": "name", "description": "notes"},
}


@dataclass(frozen=True)
class Told(Settings):
    """Settings of which each tracker may have some of its own, on top of the symbols."""

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def enabled(self) -> dict[str, dict[str, Any]]:
        return {name: {**symbols, **self.options.get(name, {})} for name, symbols in super().enabled().items()}


def options(
    trackers: Sequence[str], init_kwargs: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What `init_kwargs` says to each of `trackers`, as our options; and a line on each that has no meaning here."""
    found: dict[str, dict[str, Any]] = {}
    unused: list[str] = []
    known = Settings(0, **{f"enable_{name}": True for name in trackers}).enabled()  # type: ignore[arg-type]
    for name in trackers:
        own: dict[str, Any] = {}
        for word, value in init_kwargs.get(name, {}).items():
            ours = _ours(name, word, value)
            if ours is None or ours[0] not in {"name", *known[name]}:
                unused.append(f"init_kwargs: {name} is not told {word}; Kilter has no such option for it")
            elif value is not None:
                own[ours[0]] = _plain(ours[1], known[name].get(ours[0], ""))
        found[name] = own
    return found, unused


def _ours(tracker: str, word: str, value: Any) -> tuple[str, Any] | None:
    """Our option and its value for `word` of the tracker's init; None for a mode that is not ours to choose."""
    if word == "mode":
        return ("offline", value == "offline") if value in ("online", "offline") else None
    if word == "online":
        return "offline", not value
    return OURS.get(tracker, {}).get(word, word), value


def _plain(value: Any, default: Any) -> Any:
    """`value` as JSON has it, of the type that the option's `default` has."""
    if isinstance(default, list):
        if isinstance(value, Mapping):
            return [f"{name}={text}" for name, text in value.items()]
        return [value] if isinstance(value, str) else [str(item) for item in value]
    return type(default)(value)
