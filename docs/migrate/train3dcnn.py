"""Train a 3D CNN on videos.

python train3dcnn.py --videos videos --output results --epoch 20
"""

import argparse
import json
import os

import frames
import keras
import numpy as np
from keras import layers


def load(args):
    """Return clips, labels and class names; clips are read once and kept in a cache."""
    cache = os.path.join(args.output, "dataset_%d_%d_%d.npz" % (args.depth, args.size, args.color))
    if os.path.exists(cache):
        loaded = np.load(cache)
        return loaded["X"], loaded["Y"], list(loaded["classes"])
    if args.frames:
        found = [(path, label) for path, label in arrays_of(args.frames)]
        x = np.stack([np.load(path)["x"] for path, _ in found])
    else:
        found = frames.videos_of(args.videos)
        x = np.stack([frames.read_clip(path, args.depth, args.size, args.color) for path, _ in found])
    classes = sorted({label for _, label in found})
    y = np.array([classes.index(label) for _, label in found])
    np.savez(cache, X=x, Y=y, classes=classes)
    return x, y, classes


def arrays_of(folder):
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.endswith(".npz"):
                yield os.path.join(parent, name), os.path.basename(parent)


def build(shape, classes):
    return keras.Sequential(
        [
            layers.Input(shape),
            layers.Conv3D(32, 3, padding="same", activation="relu"),
            layers.Conv3D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling3D(3, padding="same"),
            layers.Dropout(0.25),
            layers.Conv3D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling3D(3, padding="same"),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description="Train a 3D CNN on videos, a folder for each class.")
    parser.add_argument("--videos", help="folder of the videos")
    parser.add_argument("--frames", help="folder of what frames.py made of them, instead")
    parser.add_argument("--output", required=True)
    parser.add_argument("--epoch", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    frames.add_arguments(parser)
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)

    x, y, classes = load(args)
    print("%d clips of %d classes, %s each" % (len(x), len(classes), x.shape[1:]))
    keras.utils.set_random_seed(43)
    order = np.random.permutation(len(x))
    test = len(x) // 5
    held, kept = order[:test], order[test:]
    model = build(x.shape[1:], len(classes))
    model.compile(keras.optimizers.Adam(args.lr), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x[kept], y[kept], batch_size=args.batch, epochs=args.epoch, validation_data=(x[held], y[held]), shuffle=True
    )
    model.save(os.path.join(args.output, "3dcnn.keras"))
    with open(os.path.join(args.output, "history.json"), "w") as file:
        json.dump(history.history, file)
    loss, accuracy = model.evaluate(x[held], y[held], verbose=0)
    print("Test loss:", loss)
    print("Test accuracy:", accuracy)


if __name__ == "__main__":
    main()
