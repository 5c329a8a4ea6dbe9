"""Removes an emulator's containers and networks when the emulator is gone: python -m launchers.emulator.guard LABEL.

Its stdin is a pipe from the emulator, which the kernel closes even after kill -9.
"""

from __future__ import annotations

import signal
import sys

from launchers import docker


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of stdin is the only reason to act
    sys.stdin.buffer.read()
    for kind in ("container", "network"):  # a network cannot be removed below its containers
        docker.remove(kind, docker.labelled(kind, sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
