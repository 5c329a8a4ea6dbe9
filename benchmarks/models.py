"""The built-in models side by side: prints the table of docs/models.md.

    python -m benchmarks.models                                                     # sizes only
    python -m benchmarks.models ../shared/data/motion6 ../shared/data/surveillance --seeds 0 1 2 -- model.epoch=30

Every model is trained on every UCF-style folder with every seed and tested on official list 1; what follows ``--`` goes
to run.py, the same for all. The test split is read once a training, at its end. ``ensemble`` averages networks of
``cnn3d``; no two of its seeds share a member.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow

import keras
from keras import layers

from benchmarks.accuracy import measure
from videolift.models import build
from videolift.parts import frame_shape
from videolift.settings import MODELS, Model, Preprocess

CLASSES = 6  # of the demo data, and of motion6
ENSEMBLE, MEMBERS = "ensemble", 3
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
SIZES = ["model", "parameters", "multiply-adds a clip"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="UCF-style data sets with official lists")
    parser.add_argument("--models", nargs="+", default=[*MODELS, ENSEMBLE], choices=[*MODELS, ENSEMBLE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    argv = [*sys.argv[1:], "--"]
    cut = argv.index("--")
    asked = parser.parse_args(argv[:cut], argparse.Namespace(settings=argv[cut + 1 : -1], list=1))
    print(row([*SIZES, *(folder.name for folder in asked.folders)]))
    print("|" + "---|" * (len(SIZES) + len(asked.folders)), flush=True)
    for name in asked.models:
        print(row([*sizes(name), *(accuracy(asked, name, folder) for folder in asked.folders)]), flush=True)
    return 0


def sizes(name: str) -> list[str]:
    """Return a model's name, number of parameters and of multiply-adds, for clips of 10 gray frames of 32x32 pixels."""
    is_one = name != ENSEMBLE
    model, count = (Model(name=name), 1) if is_one else (Model(), MEMBERS)
    network = build(model, frame_shape(Preprocess()), CLASSES)
    shown = f"`{name}`" if is_one else f"`{name}` of {count} `{model.name}`"
    return [shown, f"{count * network.count_params():,}", millions(count * multiply_adds(network))]


def accuracy(asked: argparse.Namespace, name: str, folder: Path) -> str:
    """Train with every seed, and return mean and standard deviation of the accuracy on whole test videos."""
    settings, apart = asked.settings, 1
    if name == ENSEMBLE:  # a member has the next seed
        settings, apart = [f"model.members={MEMBERS}", *settings], MEMBERS
    one = argparse.Namespace(folder=folder, list=asked.list, outputs=asked.outputs, settings=settings)
    with contextlib.redirect_stdout(sys.stderr):
        found = [measure(one, name, seed * apart) for seed in asked.seeds]
    spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.3f}{spread}"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def millions(count: int) -> str:
    return f"{count / 1e6:,.1f} million"


def multiply_adds(network: keras.Model) -> int:
    """Return how often one sample's way through the network multiplies by a weight and adds.

    Counted are dense layers and convolutions, padded positions included; biases, normalization, activations, pooling
    and products of two inputs are not.

    Raises:
        TypeError: if a layer has matrices and is neither.
    """
    # With a batch of one, layers that see frames as a batch tell their number.
    clip = keras.Input(batch_shape=(1, *network.input_shape[1:]), dtype=network.input.dtype)
    one = keras.models.clone_model(network, input_tensors=clip)
    return sum(_of_layer(layer, math.prod(layer.output.shape)) for layer in one.layers)


def _of_layer(layer: keras.layers.Layer, outputs: int) -> int:
    """Return the multiply-adds of a layer that gives ``outputs`` numbers a sample."""
    if isinstance(layer, layers.TimeDistributed):
        return _of_layer(layer.layer, outputs)
    if isinstance(layer, SEPARABLE):
        between = outputs // layer.filters * layer.pointwise_kernel.shape[-2]
        return between * math.prod(layer.kernel_size) + outputs * layer.pointwise_kernel.shape[-2]
    if isinstance(layer, DEPTHWISE):
        return outputs * math.prod(layer.kernel_size)
    if isinstance(layer, (layers.Dense, *CONVOLUTIONS)):
        return outputs * math.prod(layer.kernel.shape[:-1])  # every output is a sum over the kernel but its last axis
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise TypeError(f"{layer.name}: the multiply-adds of {type(layer).__name__} are not known here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
