"""What a sweep is, whoever types its command and however: the digest of its children, their data and their code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launchers.preparing import Prepared
from videolift.plan import digest_of, to_plain
from videolift.provenance import module_of, source_digest

ID_LENGTH = 12  # hex digits
# Where and how children are run and recorded does not change what they are.
NOT_IN_IDENTITY = ("action", "run", "outputs", "tracking", "sweep")
NOT_IN_COMMAND = ("sweep", "tracking", "outputs", "hydra")  # groups of settings that may differ between two sessions


def settings_of(prepared: Prepared) -> dict[str, Any]:
    """Return a child's settings but for those that do not change what it is."""
    settings = {key: value for key, value in to_plain(prepared.config).items() if key not in NOT_IN_IDENTITY}
    place, colon, function = (settings["model"]["builder"] or "").rpartition(":")
    if place.endswith(".py"):  # where a file lies does not matter
        settings["model"] = {**settings["model"], "builder": f"{Path(place).name}{colon}{function}"}
    return settings


def child_identity(prepared: Prepared) -> str:
    """Return the digest of a child's settings, data and code."""
    stages = {name: stage.id for name, stage in prepared.planned.items()}
    return digest_of({"settings": settings_of(prepared), "stages": stages})


def sweep_id(identities: Sequence[str], chosen_by: Any = None) -> str:
    """Return the id of a sweep.

    Args:
        identities: of its children, in order; of what they have in common where a sampler makes them.
        chosen_by: what a sampler chooses from, and how.
    """
    return digest_of([*identities, chosen_by])[:ID_LENGTH]


def parts_of(runs: Sequence[Prepared], chosen_by: Any = None) -> dict[str, str]:
    """Return the digests of what makes a sweep's identity, so that it can be told what has changed."""
    kinds = dict.fromkeys(stage.stage for run in runs for stage in run.planned.values())
    code = {kind: [source_digest(module_of(kind)), runs[0].backend.libraries(kind)] for kind in kinds}
    own = [{path: text.hex() for path, text in s.builder.items()} for run in runs for s in run.planned.values()]
    return {
        "settings": digest_of([*(settings_of(run) for run in runs), chosen_by]),
        "data": digest_of([run.manifest.digest for run in runs]),
        "source": digest_of([code, list(dict.fromkeys(map(digest_of, own)))]),
    }


def command_of(overrides: Sequence[str]) -> list[str]:
    """Return what was typed, without what may differ between two sessions of one sweep."""
    keys = {text: text.lstrip("+~").partition("=")[0] for text in overrides}
    return sorted(t for t, key in keys.items() if key == "sweep" or key.split(".")[0] not in NOT_IN_COMMAND)
