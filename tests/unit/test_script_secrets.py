"""Secrets come to a script by reference; a setting that holds one itself is rejected before anything runs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers import commands, mlflow_store, schema
from launchers.attached import attach
from launchers.compose import check, compose
from launchers.config import Backend, Config
from launchers.redaction import HIDDEN, redacted
from launchers.remote.requests import hyperparameters
from launchers.script_secrets import MAY_HOLD, missing_secrets, values_of
from videolift.errors import ConfigError, VideoliftError
from videolift.plan import Plan, to_plain
from videolift.script_output import MAX_LINE, Lines
from videolift.script_secrets import masking, value_at

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:videolift/hf-AbCdEf"
CANARY = "canary0815"
SCRIPT = "script.path=train.py"


def wrong(*overrides: str, multirun: bool = False) -> str:
    with pytest.raises(ConfigError) as error:
        check(overrides, multirun=multirun)
    return str(error.value)


def composed(overrides: list[str]) -> tuple[Config | None, str]:
    try:
        return compose(overrides), ""
    except ConfigError as error:
        return None, str(error)


# ---- a canary in every setting

FORMS = (
    f"https://me:{CANARY}@host/x",
    f"https://host/x?X-Amz-Signature={CANARY}",
    f"--api-key {CANARY}",
    f"api_key={CANARY}",
)


def planted(setting: schema.Setting, secret: str) -> list[str]:
    quoted = "'" + secret + "'"
    if setting.type is dict:
        # What a metric is called says nothing of the expression.
        named = [] if setting.key == "script.metrics" else [f"{setting.key}.api_key={CANARY}"]
        return [f"{setting.key}.x={quoted}", f"{setting.key}={{x: {quoted}}}", *named]
    return [f"{setting.key}=[{quoted}]"] if setting.type is list else [f"{setting.key}={quoted}"]


@pytest.mark.parametrize("setting", schema.settings().values(), ids=list(schema.settings()))
def test_a_secret_in_any_setting_is_rejected_or_redacted_and_never_repeated(setting: schema.Setting) -> None:
    more = [] if setting.key == "script.path" or not setting.key.startswith("script.") else [SCRIPT]
    for override in [one for form in FORMS for one in planted(setting, form)]:
        config, error = composed([*more, override])
        assert CANARY not in error, override
        if config is None:
            continue
        assert setting.key in MAY_HOLD, override
        plain = to_plain(config)
        told = [redacted(plain), mlflow_store.params(plain), commands.local_overrides(config, ["train"])]
        assert CANARY not in json.dumps(told), override


def test_a_secret_in_a_list_of_a_sweep_is_not_repeated() -> None:
    text = wrong(SCRIPT, f"script.args='--api-key {CANARY}','--api-key other{CANARY}'", multirun=True)
    assert "the value of '--api-key' looks like a secret" in text and CANARY not in text
    assert CANARY not in wrong(f"model.api_key={CANARY} and more", f"tags.api_key={CANARY}")


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (f"--api-key {CANARY}", "API_KEY"),
        (f"--epochs 3 --hf-token={CANARY}", "HF_TOKEN"),
        (f"--db-password '{CANARY} x'", "DB_PASSWORD"),
        (f"-token {CANARY}", "TOKEN"),
        (f"--db postgres://me:{CANARY}@host/x", "DB"),
        (f"--url 'https://h/x?token={CANARY}'", "URL"),
        (f"""--config '{{"api_key": "{CANARY}"}}'""", "CONFIG"),
        (f"API_KEY={CANARY}", "API_KEY"),
        ("--password 1234", "PASSWORD"),
    ],
)
def test_a_secret_in_the_arguments_is_rejected_with_the_remedy(args: str, name: str) -> None:
    text = wrong(SCRIPT, f"script.args={args}")
    assert "looks like a secret" in text and CANARY not in text and "1234" not in text
    assert f"Set script.secrets.{name}=VARIABLE" in text and f"write {{{name}}} in its place" in text


@pytest.mark.parametrize(
    "args",
    [
        "--token-dim 64 --max-tokens=512 --tokenizer bert --use-token true --pad-token x --token-scale 0.5",
        "--monkey a --keyboard b --password-file /run/x --out {model_dir} --x 'a@b.c, http://h/x@y'",
    ],
)
def test_arguments_that_are_no_secrets_are_accepted(args: str) -> None:
    assert compose([SCRIPT, f"script.args={args}"]).script.args == args


def test_a_placeholder_is_all_that_is_recorded_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    config = compose([SCRIPT, "script.args=--api-key {API_KEY}", "script.secrets.API_KEY=MY_KEY"])
    assert missing_secrets(config) == [] and values_of(config.script.secrets, Backend()) == {"API_KEY": CANARY}
    assert hyperparameters(Plan("script", "x", script=config.script))["script_api_key"] == "{API_KEY}"
    plain = to_plain(config)
    assert redacted(plain) == plain  # so that the run can be resumed
    assert mlflow_store.params(plain)["script.secrets.API_KEY"] == "MY_KEY"
    words = commands.local_overrides(config, ["script"])
    again = compose([word for word in words if word != "backend=local"])
    assert again.script == config.script and CANARY not in shlex.join(words)


# ---- where they come from


def test_sources_are_variables_and_arns() -> None:
    keyed = f"{ARN}:token::"
    secrets = {"HF_TOKEN": "HF_TOKEN", "a": ARN, "B": keyed, "C": ARN.replace(":aws:", ":aws-cn:")}
    assert (
        compose([SCRIPT, *(f"script.secrets.{key}={value}" for key, value in secrets.items())]).script.secrets
        == secrets
    )


@pytest.mark.parametrize("source", [f"hf_{CANARY}", "a b", "", f"{ARN}:key", "arn:aws:ssm:us-east-1:123456789012:x"])
def test_anything_else_is_rejected_and_not_repeated(source: str) -> None:
    text = wrong(SCRIPT, f"script.secrets.HF_TOKEN='{source}'")
    assert "script.secrets.HF_TOKEN: must be where the value comes from, never the value" in text
    assert not source or source not in text


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "SM_MODEL_DIR", "LD_PRELOAD", "HOME", "TF_CONFIG"])
def test_variables_of_ours_are_not_overridden(name: str) -> None:
    assert f"script.secrets.{name}: this variable is set for every script already" in wrong(
        SCRIPT, f"script.secrets.{name}=X"
    )


def test_a_name_that_stands_for_something_else_and_one_that_is_none_are_rejected() -> None:
    text = wrong(SCRIPT, "script.secrets.train=X", "script.secrets.a-b=X")
    assert "script.secrets.train: {train} stands for something else" in text
    assert "script.secrets.a-b: is no variable's name" in text


def test_secrets_belong_to_a_script() -> None:
    assert "script.secrets: belongs to a script of your own" in wrong("script.secrets.X=Y")


def test_a_remote_job_reads_them_by_itself() -> None:
    remote = (SCRIPT, "backend=remote", "script.secrets.HF_TOKEN=HF_TOKEN")
    assert "aws secretsmanager create-secret --name videolift/HF_TOKEN" in wrong(*remote)
    given = (SCRIPT, "backend=remote", f"script.secrets.HF_TOKEN={ARN}")
    assert missing_secrets(compose(given)) == []
    assert "backend.network_isolation=true lets it reach nothing" in wrong(*given, "backend.network_isolation=true")
    assert "is in aws, and cn-north-1 belongs to aws-cn" in wrong(*given, "backend.region=cn-north-1")
    here = ("backend.preprocess.where=local", "script.stage=preprocess")
    assert compose([*remote, *here]).script.secrets == {"HF_TOKEN": "HF_TOKEN"}


def test_a_variable_that_is_not_set_is_told_before_anything_runs_without_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMPTY", "")
    config = compose([SCRIPT, "script.secrets={A: AKIACANARY, B: EMPTY}"])
    assert [line.partition(":")[0] for line in missing_secrets(config)] == ["script.secrets.A", "script.secrets.B"]
    assert "AKIACANARY" not in " ".join(missing_secrets(config))


class Manager:
    """Stands for a client of Secrets Manager."""

    def __init__(self, **answer: Any) -> None:
        self.answer, self.asked = answer, {}

    def get_secret_value(self, **asked: str) -> dict[str, Any]:
        self.asked = asked
        return self.answer


def test_a_key_a_stage_and_a_version_can_be_asked_for() -> None:
    manager = Manager(SecretString=json.dumps({"token": "abc", "port": 5432}))
    assert value_at(f"{ARN}:token:AWSPREVIOUS:", lambda _: manager, "X") == "abc"
    assert manager.asked == {"SecretId": ARN, "VersionStage": "AWSPREVIOUS"}
    assert value_at(f"{ARN}:port::v1", lambda _: manager, "X") == "5432"
    assert value_at(ARN, lambda _: Manager(SecretString="text"), "X") == "text"


@pytest.mark.parametrize(
    ("source", "answer", "told"),
    [
        (ARN, {"SecretBinary": b"x"}, "holds no text"),
        (f"{ARN}:token::", {"SecretString": CANARY}, "holds no key 'token' of a JSON object"),
        (f"{ARN}:token::", {"SecretString": f'["{CANARY}"]'}, "holds no key"),
        (f"{ARN}:other::", {"SecretString": f'{{"token": "{CANARY}"}}'}, "holds no key 'other'"),
    ],
)
def test_what_a_secret_lacks_is_told_without_what_it_holds(source: str, answer: dict[str, Any], told: str) -> None:
    with pytest.raises(VideoliftError, match=told) as error:
        value_at(source, lambda _: Manager(**answer), "X")
    assert CANARY not in str(error.value)


# ---- how they travel, and how they are hidden


def test_values_travel_through_stdin_only() -> None:
    code = (
        "import os\nfrom videolift.script_secrets import given_on_stdin\nprint(ascii(given_on_stdin()), os.read(0, 9))"
    )
    source = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with attach([sys.executable, "-c", code], source, secrets={"A": "é\n", "B": "x" * 70_000}) as process:
        assert process.stdout is not None
        assert process.stdout.read() == ascii({"A": "é\n", "B": "x" * 70_000}) + " b''\n"


def test_a_process_that_ends_at_once_does_not_disturb() -> None:
    process = attach([sys.executable, "-c", "pass"], {}, lifeline=True, secrets={"A": "x" * 200_000})
    assert process.wait() == 0 and process.stdout is not None and process.stdin is not None
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.close()


def test_the_longer_of_two_secrets_is_hidden_whole_and_short_ones_are_words() -> None:
    mask = masking(["geheim", "geheim0815", "abc", 'a"b\\c', "two\nlines"])
    assert mask("geheim0815 geheim abc") == "*** *** abc"
    assert mask(json.dumps('a"b\\c')) == '"***"' and mask("x lines two") == "x *** two"


@given(st.integers(0, MAX_LINE + 40), st.lists(st.integers(1, 9), max_size=4))
def test_a_secret_is_hidden_wherever_output_is_cut(before: int, cuts: list[int]) -> None:
    lines, content, found = Lines(masking([CANARY])), ("x" * before + CANARY + "y" * 30).encode(), []
    places = [0, *sorted({before + cut for cut in cuts}), len(content)]
    for start, end in pairwise(places):
        found += lines.feed(content[start:end])
    text = "".join(line.text for line in [*found, *lines.end()])
    assert CANARY not in text and text.count("x") == before and text.endswith("***" + "y" * 30)


def test_a_traceback_is_printed_without_secrets(tmp_path: Path) -> None:
    code = f"import runpy; run = runpy.run_path('run.py'); run['_print_error']('at https://me:{CANARY}@host')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stderr == "at https://***@host\n"


def test_every_text_of_a_json_secret_is_masked() -> None:
    mask = masking(['{"username": "somebody", "password": "hunter2"}', "with-a-space "])
    assert mask("hunter2 of somebody, with-a-space.") == f"{HIDDEN} of {HIDDEN}, {HIDDEN}."
