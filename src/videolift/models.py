"""The networks. Input is uint8 (frame, height, width, channel), scaled inside; output is one probability a class.

``original=True`` gives the layer tables of the scripts of github.com/kcct-fujimotolab/3DCNN (3dcnn.py, 2dcnn.py,
3dcnn_batchnorm.py, 3dcnn_leakyrelu.py): axes in their order, pixels unscaled, softmax between the convolutions of the
first and sigmoid before its head.

Layers are Keras's own, so that a saved model loads wherever Keras is.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
from keras import layers
from keras.src.saving.serialization_lib import SafeModeScope, in_safe_mode  # Keras has no public way

from videolift.errors import ConfigError
from videolift.settings import ORIGINALS, Model

Shape = tuple[int, int, int, int]
Layer = Callable[[Any], Any]


def build(model: Model, shape: Shape, classes: int, source: Path | None = None) -> keras.Model:
    """Return the network for clips of ``shape`` (frame, height, width, channel), not compiled.

    Args:
        source: folder where the source of ``model.builder`` lies, for a file.

    Raises:
        ConfigError: if the builder cannot be loaded, or gives something that does not map clips to class probabilities.
    """
    if model.builder:
        make = load_builder(model.builder, source)
        with _registering_nothing():
            network = make(shape, classes, **model.args)
        return _checked(network, model.builder, shape, classes)
    originality = {"original": model.original} if model.name in ORIGINALS else {}
    return BUILT_IN[model.name](shape, classes, dropout=model.dropout, **originality)


def cnn3d(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build two blocks of two 3x3x3 convolutions, 32 and 64 filters wide, and a dense head."""
    inner, dense = ("softmax", "sigmoid") if original else ("relu", "relu")
    drop = _dropout(dropout)
    body: list[Layer] = []
    for filters in (32, 64):
        body += [
            _conv3d(filters, 3, activation="relu"),
            _conv3d(filters, 3, activation=inner),
            layers.MaxPooling3D(3, padding="same"),
            *drop(0.25),
        ]
    head = [layers.Flatten(), layers.Dense(512, activation=dense), *drop(0.5)]
    return _model("cnn3d", shape, [*_first(original), *body, *head], classes)


def cnn3d_batchnorm(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build three blocks of convolutions, each one normalized before its relu; the original only before the head."""

    def convolution(filters: int) -> list[Layer]:
        norm = [] if original else [_norm()]
        return [_conv3d(filters, 3, use_bias=original), *norm, layers.Activation("relu")]

    return _three_blocks("cnn3d_batchnorm", shape, classes, convolution, original, dropout)


def cnn3d_leakyrelu(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build three blocks of convolutions with leaky relu, which passes 0.1 of what is negative; the original 0.3."""

    def convolution(filters: int) -> list[Layer]:
        return [_conv3d(filters, 3), layers.LeakyReLU(0.3 if original else 0.1)]

    return _three_blocks("cnn3d_leakyrelu", shape, classes, convolution, original, dropout)


def _three_blocks(
    name: str, shape: Shape, classes: int, convolution: Callable[[int], list[Layer]], original: bool, dropout: bool
) -> keras.Model:
    drop = _dropout(dropout)
    body: list[Layer] = []
    for filters in (32, 64, 64):
        body += [*convolution(filters), *convolution(filters), layers.MaxPooling3D(3, padding="same"), *drop(0.25)]
    norm = _norm(0.99) if original else _norm()
    head = [layers.Flatten(), layers.Dense(512, activation="relu"), norm, *drop(0.5)]
    return _model(name, shape, [*_first(original), *body, *head], classes)


def _first(original: bool) -> list[Layer]:
    # The original's arrays are (height, width, frame, channel). Its kernels are cubes: only the layer table needs it.
    return [_scaling(original), *([layers.Permute((2, 3, 1, 4))] if original else [])]


def _scaling(original: bool = False) -> Layer:
    # Convolutions take no bytes: pixels that are not scaled have to become numbers all the same.
    scaling: Layer = layers.Rescaling(1.0 if original else 1 / 255)
    return scaling


def cnn2d(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build the 2D network of the original on the clip's middle frame."""
    drop = _dropout(dropout)
    body: list[Layer] = []
    for filters in (32, 64):
        body += [
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            *drop(0.25),
        ]
    head = [layers.Flatten(), layers.Dense(512, activation="relu"), *drop(0.5)]
    middle = shape[0] // 2
    first = [layers.Cropping3D(((middle, shape[0] - middle - 1), 0, 0)), layers.Reshape(shape[1:])]
    return _model("cnn2d", shape, [*first, _scaling(original), *body, *head], classes)


def r2plus1d(shape: Shape, classes: int, *, dropout: bool) -> keras.Model:
    """Build a residual network of 7 convolutions over time and space, each made of one in space and one in time.

    R(2+1)D of Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018
    (arxiv.org/abs/1711.11248), with one block a stage instead of two and more, a fourth of the filters, no fourth
    stage and a stem of 5x5 instead of 7x7: for frames of 32 pixels, not 112.
    """
    stem = [lambda x: _factorised(x, 16, size=5, strides=(1, 2, 2)), layers.Activation("relu")]
    stages = [_residual(16, 1), _residual(32, 2), _residual(64, 2)]
    head = [layers.GlobalAveragePooling3D(), *_dropout(dropout)(0.3)]
    return _model("r2plus1d", shape, [_scaling(), *stem, *stages, *head], classes)


def _residual(filters: int, stride: int) -> Layer:
    def block(x: Any) -> Any:
        strides = (stride, stride, stride)
        y = layers.Activation("relu")(_factorised(x, filters, strides=strides))
        y = _factorised(y, filters)
        if x.shape[-1] != filters:
            x = _norm()(_convolved(x, filters, (1, 1, 1), strides))
        return layers.Activation("relu")(layers.Add()([x, y]))

    return block


def _factorised(x: Any, filters: int, *, size: int = 3, strides: tuple[int, int, int] = (1, 1, 1)) -> Any:
    """Convolve in space, then over 3 frames, with as many weights as one of 3 x ``size`` x ``size`` (the paper's M)."""
    inputs = x.shape[-1]
    between = 3 * size**2 * inputs * filters // (size**2 * inputs + 3 * filters)
    time, *space = strides
    x = _convolved(x, between, (1, size, size), (1, *space))
    x = layers.Activation("relu")(_norm()(x))
    return _norm()(_convolved(x, filters, (3, 1, 1), (time, 1, 1)))


def mobile_causal(shape: Shape, classes: int, *, dropout: bool) -> keras.Model:
    """Build a light network in which no frame sees a later one, down to the layer named ``features``.

    So a stream could be computed frame by frame, with two frames remembered a layer; only the mean at the end is over
    the whole clip. Ideas, in small: causal convolutions over time and space apart, and causal squeeze-and-excitation,
    of Kondratyuk et al., MoViNets, CVPR 2021 (arxiv.org/abs/2103.11511); inverted residuals of depthwise convolutions
    of Sandler et al., MobileNetV2, CVPR 2018 (arxiv.org/abs/1801.04381); squeeze-and-excitation of Hu et al., CVPR 2018
    (arxiv.org/abs/1709.01507). MoViNets squeeze by the mean of all frames so far, this one by a convolution over three.
    """
    stem = [lambda x: _convolved(x, 16, (1, 5, 5), (1, 2, 2)), _norm(), layers.Activation("silu")]
    blocks = [
        _inverted(16, expanded=48, stride=1),
        _inverted(24, expanded=64, stride=2),
        _inverted(24, expanded=96, stride=1),
        _inverted(48, expanded=96, stride=2),
        _inverted(48, expanded=144, stride=1),
    ]
    features = [lambda x: _convolved(x, 192, (1, 1, 1)), _norm(), layers.Activation("silu", name="features")]
    head = [layers.GlobalAveragePooling3D(), *_dropout(dropout)(0.3)]
    return _model("mobile_causal", shape, [_scaling(), *stem, *blocks, *features, *head], classes)


def _inverted(filters: int, *, expanded: int, stride: int) -> Layer:
    def block(x: Any) -> Any:
        y = layers.Activation("silu")(_norm()(_convolved(x, expanded, (1, 1, 1))))
        y = layers.Activation("silu")(_norm()(_depthwise_in_space(y, stride)))
        y = _excited(_norm()(_depthwise_over_past(y)))  # linear: differences of channels over time show where it goes
        y = _norm()(_convolved(y, filters, (1, 1, 1)))
        return layers.Add()([x, y]) if x.shape == y.shape else y

    return block


# Keras has no depthwise convolution of videos, and Conv3D with a group a channel takes 100 times as long on a CPU: so
# frames lie in the batch for the one in space, and pixels in a row for the one in time. bfloat16 takes twice as long.


def _depthwise_in_space(x: Any, stride: int) -> Any:
    _, frames, height, width, channels = x.shape
    depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, dtype="float32")
    y = depthwise(keras.ops.reshape(x, (-1, height, width, channels)))
    return keras.ops.reshape(y, (-1, frames, *y.shape[1:]))


def _depthwise_over_past(x: Any) -> Any:
    """Convolve each channel of each pixel over its frame and the two before."""
    _, frames, height, width, channels = x.shape
    y = layers.Reshape((frames, height * width, channels))(x)
    y = layers.ZeroPadding2D(((2, 0), (0, 0)))(y)
    y = layers.DepthwiseConv2D((3, 1), use_bias=False, dtype="float32")(y)
    return layers.Reshape((frames, height, width, channels))(y)


def _excited(x: Any) -> Any:
    """Weigh the channels of every frame by what is in it and the two before, anywhere."""
    _, frames, _, _, channels = x.shape
    y = keras.ops.mean(x, axis=(2, 3))
    y = layers.Conv1D(channels // 4, 3, padding="causal", activation="silu")(y)
    y = layers.Conv1D(channels, 1, activation="sigmoid")(y)
    return layers.Multiply()([x, layers.Reshape((frames, 1, 1, channels))(y)])


BUILT_IN: dict[str, Callable[..., keras.Model]] = {
    "cnn3d": cnn3d,
    "cnn3d_batchnorm": cnn3d_batchnorm,
    "cnn3d_leakyrelu": cnn3d_leakyrelu,
    "r2plus1d": r2plus1d,
    "mobile_causal": mobile_causal,
    "cnn2d": cnn2d,
}


def _convolved(x: Any, filters: int, kernel: tuple[int, int, int], strides: tuple[int, ...] = (1, 1, 1)) -> Any:
    return _conv3d(filters, kernel, strides=strides, use_bias=False, kernel_initializer="he_normal")(x)


def _conv3d(filters: int, kernel: int | tuple[int, int, int], **options: Any) -> Layer:
    def convolved(x: Any) -> Any:
        # Of a kernel of 3 over an axis of 2, oneDNN's gradient in bfloat16 is garbage, often NaN (TensorFlow 2.21).
        dtype = "float32" if x.shape[1] == 2 else None
        return layers.Conv3D(filters, kernel, padding="same", dtype=dtype, **options)(x)

    return convolved


def _norm(momentum: float = 0.9) -> Layer:
    # Keras's 0.99 needs hundreds of steps to forget the start: more than small data give. Synchronized, several
    # replicas take the statistics of the whole batch.
    norm: Layer = layers.BatchNormalization(momentum=momentum, synchronized=True)
    return norm


def _dropout(enabled: bool) -> Callable[[float], list[Any]]:
    return lambda rate: [layers.Dropout(rate)] if enabled else []


def _model(name: str, shape: Shape, stack: Sequence[Layer], classes: int) -> keras.Model:
    clip = keras.Input(shape, dtype="uint8", name="clip")
    x = clip
    for layer in stack:
        x = layer(x)
    # float32 whatever the policy: a probability in bfloat16 has three digits.
    return keras.Model(clip, layers.Dense(classes, activation="softmax", dtype="float32", name="class")(x), name=name)


def load_builder(builder: str, source: Path | None = None) -> Callable[..., Any]:
    """Return the function that ``file.py:function`` or ``package.module:function`` names.

    Raises:
        ConfigError: if there is no such file, module or function.
    """
    place, _, function = builder.rpartition(":")
    try:
        if place.endswith(".py"):
            file = (source or Path()) / (Path(place).name if source else place)
            spec = importlib.util.spec_from_file_location(file.stem, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, function)  # type: ignore[no-any-return]
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.builder={builder}: {error}; it must be file.py:function or package.module:function"
        ) from error


@contextmanager
def _registering_nothing() -> Iterator[None]:
    """Forget afterwards what was registered with Keras meanwhile: whoever loads a model imports the source only."""
    known = keras.saving.get_custom_objects()
    before = dict(known)
    try:
        with SafeModeScope(in_safe_mode()):
            yield
    finally:
        known.clear()
        known.update(before)


def load_network(file: Path, builder: str | None, source: Path) -> keras.Model:
    """Return a trained network, not compiled.

    Args:
        builder: who built it, where that is the user's own.
        source: where the builder's source is.

    Raises:
        ConfigError: if the builder cannot be loaded.
    """
    if builder:  # registers its own layers with Keras
        load_builder(builder, source)
    return keras.saving.load_model(file, compile=False)


def _checked(network: Any, builder: str, shape: Shape, classes: int) -> keras.Model:
    if not isinstance(network, keras.Model):
        raise ConfigError(f"model.builder={builder}: returned {type(network).__name__}, not a keras.Model")
    if not hasattr(network, "inputs"):
        network = _with_input(network, shape)
    if tuple(network.input_shape) != (None, *shape) or tuple(network.output_shape) != (None, classes):
        raise ConfigError(
            f"model.builder={builder}: maps {network.input_shape} to {network.output_shape}, "
            f"must map {(None, *shape)} (frame, height, width, channel) to {(None, classes)} (class probabilities)"
        )
    return network


def _with_input(network: keras.Model, shape: Shape) -> keras.Model:
    """Give clips to a network that does not say what it takes, as one with a call() of its own."""
    clip = keras.Input(shape, dtype="uint8", name="clip")
    return keras.Model(clip, network(clip), name=network.name)
