"""The settings of a stage: what Hydra composes and what the code below uses.

One plain dataclass a group. Field names are the command line: ``python run.py preprocess.interval=2``. Values are
checked together, in :func:`problems`; types are checked by whoever fills the dataclasses.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Source(str, Enum):
    """How ``data.root`` is read."""

    demo = "demo"
    ucf101 = "ucf101"
    folder = "folder"
    prefix = "prefix"
    manifest = "manifest"
    npz = "npz"


class Split(str, Enum):
    """Who is trained on and who is tested."""

    official = "official"  # the lists that come with the data set
    group = "group"  # no group on both sides, stratified as well as groups allow
    random = "random"  # as the original scripts did; leaks groups, but no identical content


class Conflicts(str, Enum):
    """What to do with identical content under several labels. Where the split is given it is only reported."""

    fail = "fail"
    drop = "drop"  # leave out all clips of that content


class Sampling(str, Enum):
    """Which frames of a video make a clip."""

    uniform = "uniform"  # frame floor(x * n / depth) for x in 0..depth-1
    head = "head"  # the first depth frames
    interval = "interval"  # every k-th frame, from one or several starts


class Reader(str, Enum):
    """What decodes a video."""

    pyav = "pyav"
    opencv = "opencv"


class Resize(str, Enum):
    """Interpolation: ``area`` averages source pixels, ``linear`` is what the original scripts do (aliased)."""

    area = "area"
    linear = "linear"


class ShortVideo(str, Enum):
    """What to do with a video that has fewer frames than a clip needs."""

    pad = "pad"  # repeat the last frame
    loop = "loop"  # start again from the first
    skip = "skip"
    fail = "fail"


class BadVideo(str, Enum):
    """What to do with a video that does not decode."""

    skip = "skip"
    fail = "fail"


class Select(str, Enum):
    """Which epoch's weights become the model."""

    best = "best"  # lowest validation loss; the last one without a validation set
    last = "last"


class Precision(str, Enum):
    """Arithmetic of the model. ``auto`` takes bfloat16 where the processor has it, float32 elsewhere."""

    auto = "auto"
    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


@dataclass
class Data:
    """Where the videos are, what their labels are, and who is tested."""

    source: Source = Source.demo
    root: str | None = None  # folder of the videos; demo makes its own
    lists: str | None = None  # folder with classInd.txt, trainlistNN.txt, testlistNN.txt
    list: int = 1  # which official list, 1..3
    csv: str | None = None  # source=manifest: columns path,label[,group][,split], paths relative to root
    npz: str | None = None  # source=npz: file with X and Y
    axes: str = "auto"  # source=npz: auto | videolift (clip,frame,h,w,channel) | original (clip,h,w,frame,channel)
    classes: str | None = None  # source=npz: file with one class name a line
    nclass: int | None = None  # keep the first n classes of the sorted list
    split: Split = Split.group
    test_share: float = 0.25  # of the clips; group and random splits
    val_share: float = 0.15  # of the training clips, by group; 0 trains on all of them
    conflicts: Conflicts = Conflicts.fail


@dataclass
class Preprocess:
    """How a video becomes clips of shape (frame, height, width, channel), uint8."""

    depth: int = 10  # frames a clip
    height: int = 32  # pixels
    width: int = 32  # pixels
    color: bool = False  # RGB, else gray
    sampling: Sampling | None = None  # null: uniform, or interval where preprocess.interval is set
    interval: int | None = None  # every k-th frame
    windows: int | None = None  # sampling=interval: clips a video, evenly spaced
    stride: int | None = None  # sampling=interval: frames between the starts of two clips
    short_video: ShortVideo = ShortVideo.pad
    bad_video: BadVideo = BadVideo.fail
    max_bad_share: float = 0.05  # of the videos; more stop the run even with bad_video=skip
    reader: Reader = Reader.pyav
    resize: Resize = Resize.area
    workers: int = 0  # processes; 0 = all cores


@dataclass
class Model:
    """The network and how it is trained. Names follow the scripts of 3DCNN where those had one."""

    name: str = "cnn3d"  # one of MODELS
    original: bool = False  # the exact layer table of the original scripts; for ORIGINALS
    builder: str | None = None  # your own: file.py:build or pkg.mod:build
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the builder
    members: int = 1  # of an ensemble: networks from seed, seed + 1, ..., whose probabilities are averaged
    epoch: int = 20
    batch: int = 32
    optimizer: str | None = None  # one of OPTIMIZERS; null: adam, or the original's with model.original
    learning_rate: float | None = None  # null: the optimizer's own default
    loss: str = "categorical_crossentropy"  # one of LOSSES
    dropout: bool = True  # false switches off the built-in models' dropout layers
    early_stopping: int | None = None  # epochs without a better validation loss before stopping
    select: Select = Select.best
    precision: Precision = Precision.auto


class ScriptStage(str, Enum):
    """Which kind of job a user's own script is."""

    train = "train"  # a training job: one host, or several that each get all of the data
    preprocess = "preprocess"  # a processing job: hosts that share the data


@dataclass
class Script:
    """A user's own program, run as it is in place of our stages."""

    path: str | None = None  # file; relative to source_dir, where that is given
    args: str = ""  # what follows it on a command line, as one text; {train}, {model_dir}, ... become paths
    stage: ScriptStage = ScriptStage.train
    source_dir: str | None = None  # folder of a project of several files; null: the file alone
    requirements: str | None = None  # file in the source; null: requirements.txt beside the script, if there is one
    exclude: list[str] = field(default_factory=list)  # patterns of files and folders of source_dir to leave out
    # Channel -> videos (of data.root), arrays (what preprocessing makes), a folder, or s3://...; none: {train: videos}
    channels: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)  # variable of the script -> one of this shell, or an ARN
    metrics: dict[str, str] = field(default_factory=dict)  # metric -> regular expression with one group, its value


@dataclass
class Augment:
    """How training clips are changed, each epoch in another way: by chance, up to what stands here."""

    flip: bool = False  # mirror half of the clips; not where left and right tell classes apart
    crop: float = 0.0  # of height and width that a random window may lack; it is enlarged again
    time_jitter: int = 0  # frames that a clip may begin earlier or later
    brightness: float = 0.0  # of white, added or subtracted
    contrast: float = 0.0  # around the clip's mean
    saturation: float = 0.0  # of colour


@dataclass
class Predict:
    """What a trained model is to classify."""

    input: str | None = None  # a video, a folder of videos, or a pattern: clips/*.mp4, clips/**/*.avi
    top: int = 5  # classes in a row of the table, best first
    workers: int = 0  # processes that read videos; 0 = all cores


@dataclass
class Visualize:
    """What is drawn, and of which layer. Pictures of a whole experiment are quick, those of a finished run are all."""

    pictures: list[str] | None = None  # of PICTURES; null: QUICK_PICTURES, or with run= all of them
    layer: str | None = None  # for maximize and gradcam; null: the last convolution
    units: list[int] | None = None  # of the layer, from 0, for maximize; null: the 16 that differ most between clips


QUICK_PICTURES = ("contact_sheet", "learning_curves", "confusion_matrix")  # need no network
NETWORK_PICTURES = ("gradcam", "maximize", "embedding")
PICTURES = (*QUICK_PICTURES, *NETWORK_PICTURES)
# Which of its pictures a setting of the stage is for.
VISUALIZE_SETTINGS = {"layer": ("gradcam", "maximize"), "units": ("maximize",)}
MODELS = ("cnn3d", "cnn3d_batchnorm", "cnn3d_leakyrelu", "r2plus1d", "mobile_causal", "cnn2d")
# The models that the original scripts have, and the optimizers that they are compiled with there.
ORIGINALS = {"cnn3d": "adam", "cnn3d_batchnorm": "rmsprop", "cnn3d_leakyrelu": "rmsprop", "cnn2d": "adam"}
MIN_DEPTH_3D = 2  # below, a 3x3x3 convolution sees no motion at all
MIN_SIDE_2D = 10  # ((n - 2) // 2 - 2) // 2 must be at least 1
# Keras's names, listed here because a plan does not import Keras; a test compares them with Keras.
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
    "schedulefreeadamw",
    "sgd",
)
LOSSES = (  # those for one-hot labels and class probabilities
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
)
CHANNELS = {True: 3, False: 1}  # preprocess.color -> channels of a frame


def resolved_sampling(preprocess: Preprocess) -> Sampling:
    """Return the sampling rule, which ``preprocess.interval`` selects when none is named."""
    if preprocess.sampling is not None:
        return preprocess.sampling
    return Sampling.interval if preprocess.interval is not None else Sampling.uniform


def resolved_optimizer(model: Model) -> str:
    """Return the optimizer, where none is named that of the original script, or adam."""
    if model.optimizer is not None:
        return model.optimizer
    return ORIGINALS[model.name] if model.original and not model.builder else "adam"


def problems(
    data: Data, preprocess: Preprocess, model: Model, augment: Augment | None = None, predict: Predict | None = None
) -> list[str]:
    """Return every mistake that can be told from the settings alone, each as ``key: what; what to do``."""
    found = [*_data_problems(data), *_preprocess_problems(preprocess), *_model_problems(model, data, preprocess)]
    if augment is not None:
        found += _augment_problems(augment, preprocess)
    return found if predict is None else [*found, *_predict_problems(predict)]


def visualize_problems(visualize: Visualize) -> list[str]:
    """Return every mistake in what is to be drawn; layers and units are the network's to know."""
    pictures = QUICK_PICTURES if visualize.pictures is None else visualize.pictures
    found = []
    if not pictures:
        found.append(f"visualize.pictures: is empty; there are {', '.join(PICTURES)}")
    for name in dict.fromkeys(pictures):
        if name not in PICTURES:
            near = difflib.get_close_matches(name, PICTURES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"visualize.pictures: there is no picture {name!r}, there are {', '.join(PICTURES)}{hint}")
    for key, homes in VISUALIZE_SETTINGS.items():
        if getattr(visualize, key) is not None and not set(homes) & set(pictures):
            which = "which is not" if len(homes) == 1 else "none of which is"
            found.append(
                f"visualize.{key}: is for {' and '.join(homes)}, {which} drawn; "
                f"say visualize.pictures=[{','.join(homes)}]"
            )
    if visualize.layer is not None and not visualize.layer.strip():
        found.append("visualize.layer: is empty; give it a name or leave it out")
    units = visualize.units
    if units is not None and (not units or min(units) < 0 or len(set(units)) < len(units)):
        found.append(f"visualize.units: must be different numbers from 0, at least one, got {units}")
    return found


def _at_least(group: str, settings: object, minimum: int, *names: str) -> list[str]:
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{group}.{name}: must be at least {minimum}, got {value}"
        for name, value in values.items()
        if value is not None and value < minimum
    ]


def _share(key: str, value: float, *, zero: bool) -> list[str]:
    if (0 if zero else 1e-9) <= value < 1:
        return []
    return [f"{key}: must be a share from 0 {'to' if zero else '(excluded) to'} 1 (excluded), got {value}"]


def _data_problems(data: Data) -> list[str]:
    found = _at_least("data", data, 1, "list") + _at_least("data", data, 2, "nclass")
    found += _share("data.test_share", data.test_share, zero=False)
    found += _share("data.val_share", data.val_share, zero=True)
    if data.axes not in ("auto", "videolift", "original"):
        found.append(f"data.axes: must be auto, videolift or original, got {data.axes!r}")
    needs = {
        Source.ucf101: ("root",),
        Source.folder: ("root",),
        Source.prefix: ("root",),
        Source.manifest: ("csv",),
        Source.npz: ("npz",),
    }
    for name in needs.get(data.source, ()):
        if not getattr(data, name):
            found.append(f"data.{name}: data={data.source.value} needs it; say data.{name}=PATH")
    if data.split is Split.official and data.source not in (Source.ucf101, Source.manifest):
        found.append(
            "data.split: official lists exist for data=ucf101 and data=manifest only, not for "
            f"data={data.source.value}; use data.split=group"
        )
    if data.split is Split.official and data.conflicts is not Conflicts.fail:
        found.append(
            f"data.conflicts: a given split (data.split=official) is never changed, so data.conflicts="
            f"{data.conflicts.value} does not apply; leave it out, or set data.split=group"
        )
    return found


def _preprocess_problems(p: Preprocess) -> list[str]:
    found = _at_least("preprocess", p, 1, "depth", "height", "width", "interval", "windows", "stride")
    found += _at_least("preprocess", p, 0, "workers")
    found += _share("preprocess.max_bad_share", p.max_bad_share, zero=True)
    sampling = resolved_sampling(p)
    if sampling is Sampling.interval and p.interval is None:
        found.append("preprocess.interval: preprocess.sampling=interval needs it; say preprocess.interval=2")
    if sampling is not Sampling.interval:
        for name in ("interval", "windows", "stride"):
            if getattr(p, name) is not None:
                found.append(
                    f"preprocess.{name}: has a meaning with preprocess.sampling=interval only, not {sampling.value}; "
                    "leave one of the two out"
                )
    if p.windows is not None and p.stride is not None:
        found.append("preprocess.stride: preprocess.windows already says how many clips a video gives; leave one out")
    return found


def _augment_problems(augment: Augment, p: Preprocess) -> list[str]:
    found = [
        f"augment.{key}: must be a share from 0 to 1 (excluded), got {value}"
        for key in ("crop", "brightness", "contrast", "saturation")
        if not 0 <= (value := getattr(augment, key)) < 1
    ]
    if not 0 <= augment.time_jitter < p.depth:
        found.append(
            f"augment.time_jitter: must be from 0 to preprocess.depth - 1 = {p.depth - 1}, got {augment.time_jitter}"
        )
    if augment.saturation and not p.color:
        found.append("augment.saturation: gray clips have none; say preprocess.color=true, or leave it out")
    return found


def _predict_problems(predict: Predict) -> list[str]:
    found = _at_least("predict", predict, 1, "top") + _at_least("predict", predict, 0, "workers")
    if predict.input is not None and not predict.input.strip():
        found.append("predict.input: is empty; say which videos, or leave it out")
    return found


def _model_problems(model: Model, data: Data, p: Preprocess) -> list[str]:
    found = _at_least("model", model, 1, "members", "epoch", "batch", "early_stopping")
    if model.learning_rate is not None and model.learning_rate <= 0:
        found.append(f"model.learning_rate: must be above 0, got {model.learning_rate}")
    for key, known in (("optimizer", (None, *OPTIMIZERS)), ("loss", LOSSES)):
        value = getattr(model, key)
        if value not in known:
            there = ", ".join(filter(None, known))
            found.append(f"model.{key}: Keras has no {value!r} for this; there are {there}")
    if model.early_stopping is not None and data.val_share == 0:
        found.append("model.early_stopping: needs a validation set; say data.val_share=0.15 or leave it out")
    if model.args and not model.builder:
        found.append("model.args: are the arguments of model.builder, which is not set")
    if model.builder:
        return found
    if model.name not in MODELS:
        found.append(
            f"model.name: no model {model.name!r}; there are {', '.join(MODELS)}, or your own by model.builder"
        )
    elif model.original and model.name not in ORIGINALS:
        found.append(
            f"model.original: the original scripts have no {model.name}, only {', '.join(ORIGINALS)}; leave it out"
        )
    if model.name in MODELS and model.name != "cnn2d" and p.depth < MIN_DEPTH_3D:
        found.append(
            f"preprocess.depth: {model.name} convolves over time and needs at least {MIN_DEPTH_3D} frames, got "
            f"{p.depth}; use model=cnn2d for single frames"
        )
    if model.name == "cnn2d" and min(p.height, p.width) < MIN_SIDE_2D:
        found.append(
            f"preprocess.height, preprocess.width: cnn2d convolves and pools twice without padding and needs at least "
            f"{MIN_SIDE_2D}x{MIN_SIDE_2D} pixels, got {p.height}x{p.width}"
        )
    return found
