import os

import numpy as np


def load(folder):
    x = np.load(os.path.join(folder, "x.npy")).astype("float32")
    return x, np.load(os.path.join(folder, "labels", "y.npy")).astype("int64")
