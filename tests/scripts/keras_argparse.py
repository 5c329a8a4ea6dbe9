"""Train a small classifier on arrays, as scripts of a few years ago do it."""

import argparse
import json
from pathlib import Path

import keras
import numpy as np


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--val-split", type=float, default=0.25)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--output", default="model.keras")
    args = parser.parse_args()

    parts = [np.load(file) for file in sorted(Path(args.data_dir).glob("*.npz"))]
    x = np.concatenate([part["X"] for part in parts]).astype("float32") / 255
    y = np.concatenate([part["Y"] for part in parts])
    keras.utils.set_random_seed(0)
    order = np.random.permutation(len(x))
    x, y = x[order], y[order]
    model = keras.Sequential(
        [
            keras.layers.Input(x.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(int(y.max()) + 1, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x, y, epochs=args.epochs, batch_size=args.batch_size, validation_split=args.val_split, shuffle=args.shuffle
    )
    model.evaluate(x, y, batch_size=args.batch_size)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    with open("history.json", "w") as file:
        json.dump(history.history, file)


if __name__ == "__main__":
    main()
