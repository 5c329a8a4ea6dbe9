"""What is told of a run besides its results: its id, its name, what it was asked for, what its data is."""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path

from launchers import report
from launchers.config import PREDICT, Config
from launchers.preparing import Prepared
from launchers.script_settings import needs_data
from videolift.manifest import Manifest
from videolift.plan import digest_of, to_plain

# Where a run is recorded and what it is called do not change what it is: the same command finds its unfinished run.
NOT_IN_FINGERPRINT = ("tracking", "sweep", "action", "run")


def fingerprint(prepared: Prepared) -> str:
    config = {key: value for key, value in to_plain(prepared.config).items() if key not in NOT_IN_FINGERPRINT}
    return digest_of({"config": config, "stages": {name: stage.id for name, stage in prepared.planned.items()}})


def tags(prepared: Prepared) -> dict[str, str]:
    tags = dict(prepared.config.tags)
    if PREDICT in prepared.planned or prepared.config.script.path is not None:
        return tags
    tags["split"] = prepared.config.data.split.value
    if "train" in prepared.planned:
        model = prepared.planned["train"].plan.model
        tags |= {"precision": model.precision.value, "optimizer": str(model.optimizer)}
    return tags


def data_facts(prepared: Prepared) -> dict[str, object]:
    manifest, data, script = prepared.manifest, prepared.config.data, prepared.config.script
    if script.path is not None and not needs_data(script):
        given = [channel for stage in prepared.planned.values() for channel in stage.channels]
        return {
            "source": "script",
            "root": ", ".join(script.channels.values()),
            "digest": digest_of([(channel.name, channel.digest) for channel in given]),
            "files": sum(len(channel.names) for channel in given),
        }
    return {
        "source": manifest.source,
        "root": data.root or data.csv or data.npz,
        "digest": manifest.data_digest,
        "clips": len(manifest.clips),
        "classes": list(manifest.classes),
        "splits": {} if manifest.source == PREDICT or script.path is not None else _sizes(manifest),
    }


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {split: sum(manifest.counts(split).values()) for split in report.SPLITS}


def plan_text(prepared: Prepared) -> str:
    return json.dumps(
        {name: to_plain(stage.plan) for name, stage in prepared.planned.items()}, indent=1, ensure_ascii=False
    )


def _model_name(config: Config) -> str:
    name = config.model.name if not config.model.builder else config.model.builder.rpartition(":")[2]
    return f"{name}-x{config.model.members}" if config.model.members > 1 else name


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name)[:60].strip("-") or "run"


def new_id(name: str) -> str:
    """Return the id of a run that starts now."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(name)}-{secrets.token_hex(2)}"


def plain_name(config: Config) -> str:
    """Return what to call a run that was given no name."""
    if config.script.path is not None:
        return Path(config.script.path).stem
    return f"{config.data.source.value}-{_model_name(config)}"
