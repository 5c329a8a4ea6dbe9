"""The command: python -m launchers.emulator."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from launchers.emulator.choice import EmulatorError, choose_hosts
from launchers.emulator.environment import READY, environment, shell_lines
from launchers.emulator.server import LOOPBACK, REGION, Server, make_ready

LOOK_S = 0.2  # between two looks at a program that runs


def main() -> int:
    arguments = _arguments()
    if arguments.print_env:
        print(shell_lines(environment(f"http://{LOOPBACK}:{arguments.port}")))
        return 0
    shell = dict(os.environ)
    _forget_aws()
    root = (arguments.root or Path(tempfile.mkdtemp(prefix="videolift-emulator-"))).resolve()
    ended = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches a program that we run by itself.
        if number == signal.SIGTERM or not arguments.command:
            ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        hosts = choose_hosts(arguments.hosts, root, dict(arguments.image))
        server = Server(
            root,
            hosts,
            port=arguments.port,
            grace_s=arguments.grace_s,
            start_s=arguments.start_s,
            quotas=dict(arguments.quota),
        )
    except (EmulatorError, OSError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1
    if arguments.ready:
        make_ready(arguments.region or [REGION])
    thread = threading.Thread(target=server.serve, daemon=True, name="server")
    thread.start()
    print(f"{READY}{server.url}\nhosts: {hosts.name}; files: {root}\n", flush=True)
    if arguments.command:
        try:
            return _run(arguments.command, shell, environment(server.url), ended)
        finally:
            server.close()
    print(f"In another shell:\n\n{shell_lines(environment(server.url))}", flush=True)
    if arguments.until_stdin_closes:
        threading.Thread(target=_watch_stdin, args=(ended,), daemon=True).start()
    try:
        ended.wait()
    finally:
        server.close()
    return 0


def _run(command: list[str], shell: Mapping[str, str], variables: Mapping[str, str], ended: threading.Event) -> int:
    """Run a program for which this is AWS, and return its exit code; what ends the emulator ends the program."""
    others = {name: value for name, value in shell.items() if not name.startswith("AWS_")}
    with subprocess.Popen(command, env={**others, **variables}) as process:
        while process.poll() is None:
            if ended.wait(LOOK_S):
                process.terminate()
                ended.clear()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _forget_aws() -> None:
    """Keep what this shell knows of AWS and of proxies away from the emulator's own requests, which go to itself."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            del os.environ[name]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launchers.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--root", type=Path, help="folder of jobs and calls.jsonl (default: a temporary one)")
    parser.add_argument(
        "--hosts",
        choices=("auto", "containers", "namespaces"),
        default="auto",
        help="what stands for instances: Docker containers, or processes of this machine (default: %(default)s)",
    )
    parser.add_argument("--grace-s", type=float, default=120.0, help="from SIGTERM to SIGKILL (default: %(default)s)")
    parser.add_argument("--start-s", type=float, default=0.2, help="that jobs are Starting (default: %(default)s)")
    parser.add_argument(
        "--image",
        type=_image,
        action="append",
        default=[],
        metavar="PATTERN=LOCAL",
        help="local image for image URIs that a pattern fits (shell's wildcards); may be repeated",
    )
    parser.add_argument(
        "--quota",
        type=_quota,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as 'ml.m5.xlarge for training job usage=1'; may be repeated",
    )
    parser.add_argument(
        "--ready",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="begin with the role videolift-job and the default bucket of each region (default: yes)",
    )
    parser.add_argument("--region", action="append", help=f"that has a default bucket; may be repeated ({REGION})")
    parser.add_argument(
        "--print-env",
        action="store_true",
        help="print the `export` lines for the emulator at --port, for a shell's eval, and end",
    )
    parser.add_argument("command", nargs="*", help="after --: a program to run for which this is AWS, and end with it")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end at the end of stdin as well")
    arguments = parser.parse_args()
    if arguments.print_env and not arguments.port:
        parser.error("--print-env: say which emulator, by --port")
    return arguments


def _image(text: str) -> tuple[str, str]:
    pattern, equals, local = text.partition("=")
    if not (pattern and equals and local):
        raise argparse.ArgumentTypeError(f"{text}: must be PATTERN=LOCAL")
    return pattern, local


def _quota(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    if not (name and equals and value.isdigit()):
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=NUMBER")
    return name, float(value)


def _watch_stdin(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


if __name__ == "__main__":
    sys.exit(main())
