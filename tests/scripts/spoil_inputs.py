"""A script that treats its data as its own, in every way that there is to change a file in place."""

import os
import pathlib
import shutil
import sys

import numpy as np

for folder in map(pathlib.Path, sys.argv[1:-1]):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    first, second, third, *others = files * 8  # a channel of one file has it in all roles
    with first.open("r+b") as file:
        file.write(b"XXXX")
    with second.open("ab") as file:
        file.write(b"appended")
    mapped = np.memmap(third, dtype=np.uint8, mode="r+")
    mapped[-1] ^= 255
    mapped.flush()
    same = others[0].stat()
    others[0].write_bytes(bytes(same.st_size))
    os.utime(others[0], ns=(same.st_atime_ns, same.st_mtime_ns))
    others[1].chmod(0o600)
    os.truncate(others[2], 1)
    os.link(others[3], others[3].with_name("second name"))
    os.utime(others[3], (0, 0))
    others[4].rename(others[4].with_name("renamed"))
    (folder / "labels.cache").write_text("kept")
    shutil.rmtree(next((one for one in folder.iterdir() if one.is_dir()), folder / "none"), ignore_errors=True)
    for left in folder.rglob("*"):
        if left.is_file() and left.name != "labels.cache":
            left.unlink()
pathlib.Path("beside.txt").write_text("beside")
pathlib.Path("..", "above.txt").write_text("above")
pathlib.Path(os.environ["SM_OUTPUT_DIR"], "report.txt").write_text("report")
pathlib.Path(sys.argv[-1], "model.txt").write_text("model")
pathlib.Path(sys.argv[-1], "last.txt").symlink_to("model.txt")
