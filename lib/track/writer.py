"""The calls of torch's SummaryWriter for a TensorBoard that lives in another process: each is a line of the journal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lib.track.native import NOTHING, Alone, Nothing


class Writer:
    """`tensorboard` is the tracker alone. A call that it has no line for says so and does nothing.

    As there `global_step` is the step; `step` is understood, too, and the rest of the arguments are not used.
    """

    def __init__(self, tensorboard: Alone) -> None:
        self._alone = tensorboard

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        self._alone.log({tag: scalar_value}, rest.get("step", global_step))

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: int | None = None, *_: Any, **rest: Any
    ) -> None:
        self._alone.log({main_tag: tag_scalar_dict}, rest.get("step", global_step))

    def add_text(self, tag: str, text_string: str, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        self._alone.text(tag, text_string, rest.get("step", global_step))

    def add_image(self, tag: str, img_tensor: Any, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        self._alone.image(tag, img_tensor, rest.get("step", global_step))

    def add_images(self, tag: str, img_tensor: Any, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        for index, image in enumerate(img_tensor):
            self._alone.image(f"{tag}/{index}", image, rest.get("step", global_step))

    def add_figure(self, tag: str, figure: Any, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        self._alone.figure(tag, figure, rest.get("step", global_step))

    def add_histogram(self, tag: str, values: Any, global_step: int | None = None, *_: Any, **rest: Any) -> None:
        self._alone.histogram(tag, values, rest.get("step", global_step))

    def add_embedding(
        self, mat: Any, metadata: Any = None, label_img: Any = None, global_step: int | None = None,
        tag: str = "embedding", *_: Any, **rest: Any,
    ) -> None:  # fmt: skip
        """The pictures `label_img` are left out."""
        self._alone.embedding(tag, mat, rest.get("step", global_step), labels=metadata)

    def add_graph(self, model: Any, input_to_model: Any = None, *_: Any, **__: Any) -> None:
        self._alone.graph(model, input_to_model)

    def flush(self) -> None:
        """A line that is written is written."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("_"):
            raise AttributeError(name)
        print(f"warning: tensorboard: {name} needs its own SummaryWriter: TRACKER_NATIVE=tensorboard", file=sys.stderr)
        return NOTHING
