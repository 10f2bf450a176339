"""What every test shares: trackers that write below a temporary folder, never to the user's stores or a cloud."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cloning import cloned_to

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that spin make small models slower, see docs


@pytest.fixture(scope="session", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which trackers write; in the environment, so that their processes know it too."""
    home = tmp_path_factory.mktemp("stores")
    os.environ.update(
        TRACKIO_DIR=str(home / "trackio"),
        WANDB_MODE="offline",
        WANDB_CACHE_DIR=str(home),
        WANDB_CONFIG_DIR=str(home),
        WANDB_DATA_DIR=str(home),
        WANDB_ERROR_REPORTING="false",
        HF_HOME=str(home / "hf"),
        HF_HUB_OFFLINE="1",
        MPLCONFIGDIR=str(home / "matplotlib"),
    )
    return home


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone to type make in; its path has a space, as a path may."""
    return cloned_to(tmp_path / "kilter clone")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that each tracker's process runs first; see planting.py."""
    home = tmp_path / "planted"
    home.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(home))
    return home / "sitecustomize.py"
