"""What a program needs in its environment to take an emulator for AWS."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from launchers.emulator.server import REGION

READY = "emulator: "  # before the address, in the first line that an emulator prints


def environment(url: str) -> dict[str, str]:
    """Return the variables; the credentials are nobody's."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "emulator",
        "AWS_SECRET_ACCESS_KEY": "emulator",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def shell_lines(variables: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
