"""Everything that makes the next epoch what it would have been without an interruption."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from videolift.errors import TrainingError
from videolift.npy import BadArray, arrays_of, names_of, read_array, read_header
from videolift.parts import write_npz
from videolift.plan import from_plain, to_plain

CHECKPOINT_FILE = "checkpoint.npz"
BEST_FILE = "best.npz"


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0  # finished epochs
    history: list[dict[str, float]] = field(default_factory=list)  # one dict of metrics an epoch
    best_epoch: int = 0  # number of the epoch, from 1, with the lowest validation loss
    best_loss: float = float("inf")

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch

    def add(self, metrics: dict[str, float]) -> bool:
        """Take in an epoch's metrics and return whether it is the best so far."""
        self.epoch += 1
        self.history.append(metrics)
        loss = metrics.get("val_loss")
        if loss is None or not loss < self.best_loss:
            return False
        self.best_epoch, self.best_loss = self.epoch, loss
        return True


def save(folder: Path, network: keras.Model, progress: Progress) -> None:
    """Write weights, optimizer, seed generators and progress atomically."""
    arrays = {f"v{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_state(network))}
    write_npz(folder / CHECKPOINT_FILE, {**arrays, "progress": np.array(json.dumps(to_plain(progress)))})


def restore(folder: Path, network: keras.Model) -> Progress:
    """Put a saved state into the network and return its progress; a fresh start where there is none.

    Raises:
        TrainingError: if the checkpoint is damaged or of another network.
    """
    return restore_from(read(folder), network, folder / CHECKPOINT_FILE)


def read(folder: Path) -> bytes:
    """Return a saved state as it lies in its file; nothing where there is none."""
    file = folder / CHECKPOINT_FILE
    return file.read_bytes() if file.is_file() else b""


def restore_from(content: bytes, network: keras.Model, file: Path) -> Progress:
    """Put what :func:`read` gave, on this host or another, into the network and return its progress.

    Args:
        file: where it was, for the message.

    Raises:
        TrainingError: if the checkpoint is damaged or of another network.
    """
    if not content:
        return Progress()
    state = _state(network)
    with _readable(file), arrays_of(io.BytesIO(content)) as saved:
        fits = len(names_of(saved)) == len(state) + 1 and all(
            read_header(saved, f"v{i}").shape == tuple(v.shape) for i, v in enumerate(state)
        )
        if not fits:
            raise TrainingError(f"{file}: is a checkpoint of another network; delete it to train from the start")
        for i, variable in enumerate(state):
            variable.assign(read_array(saved, f"v{i}"))
        return from_plain(Progress, json.loads(str(read_array(saved, "progress"))))


def save_best(folder: Path, network: keras.Model) -> None:
    write_npz(folder / BEST_FILE, {f"w{i}": w for i, w in enumerate(network.get_weights())})


def restore_best(folder: Path, network: keras.Model) -> None:
    with _readable(folder / BEST_FILE), arrays_of(folder / BEST_FILE) as saved:
        network.set_weights([read_array(saved, f"w{i}") for i in range(len(names_of(saved)))])


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except BadArray as error:
        raise TrainingError(f"{file}: {error}; delete it to train from the start") from error


def _state(network: keras.Model) -> list[keras.Variable]:
    # Keras's own saving leaves out the seed generators of dropout, so that a resumed run would drop other units.
    return [*network.variables, *network.optimizer.variables]
