"""One rule hides secrets, whatever the form that they come in, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.redaction import HIDDEN, is_secret_name, redacted, redacted_text, redacted_words

SECRET = "hunter2"

SECRET_NAMES = (
    *("api_key", "apiKey", "APIKey", "--api-key", "x-api-key", "OPENAI_API_KEY", "hf-token", "hfToken", "HF_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "aws_session_token", "password", "DB_PASSWORD", "PGPASSWORD", "passwd", "passphrase"),
    *("secret", "client_secret", "clientSecret", "token", "access_token", "credential", "credentials", "private_key"),
    *("SECRET_KEY_BASE", "TOKEN_GITHUB", "api_key_2", "account_key", "accessKey", "model.args.api_key"),
)
OTHER_NAMES = (
    *("max_tokens", "tokenizer", "monkey", "keyboard", "key", "keys", "primary_key", "token_dim", "password_file"),
    *("secret_name", "pad_token", "maskToken", "cls_token", "passenger", "accessory", "secretary", "token_pooling"),
    *("script.metrics.loss_of_token", "api", "hotkey", "key_frames"),
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redacted({name: SECRET}) == {name: "***"}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)
    assert redacted({name: SECRET}) == {name: SECRET}
    assert redacted_text(f"{name}={SECRET}") == f"{name}={SECRET}"


@pytest.mark.parametrize(
    "value",
    [
        {"max_tokens": 512, "TOKEN_SCALE": 64, "use_token": True, "token": None, "password": "", "api_key": False},
        {"metrics": {"accuracy_per_token": 0.5}, "api_key": "{API_KEY}", "password": "${oc.env:DB}", "token": "$HF"},
        {"secrets": {"HF_TOKEN": "MY_TOKEN", "A": "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:a-b1:k::"}},
        {"script": {"secrets": {"HF_TOKEN": "HF_TOKEN"}, "metrics": {"t": r"token=([\d.]+)"}}, "path": "train.py"},
        {"uri": "postgres://me:{DB_PASSWORD}@host/db", "header": "Authorization: Bearer {TOKEN}"},
    ],
)
def test_what_is_no_secret_is_shown(value: Any) -> None:
    assert redacted(value) == value


@pytest.mark.parametrize(
    "value",
    [
        {"credentials": {"user": "me", "codes": [SECRET]}},
        {"a": [{"apiKey": SECRET}, ["--api-key", SECRET, "--x", "1"]]},
        {"password": [SECRET, SECRET]},
        {"secrets": {"HF_TOKEN": SECRET}},
        {"a": ("--token", SECRET)},
        {"a": f"--db-password={SECRET} --epochs 3"},
        {"config": f'{{"api_key": "{SECRET}"}}'},
    ],
)
def test_secrets_in_nested_values(value: Any) -> None:
    assert SECRET not in json.dumps(redacted(value))


def test_a_number_is_hidden_where_the_name_ends_in_the_word() -> None:
    assert redacted({"password": 12345, "token_scale": 64}) == {"password": "***", "token_scale": 64}
    assert redacted_words(["--password", "12345", "--token-scale", "64", "--token-dim", "64"]) == [
        *("--password", "***", "--token-scale", "64", "--token-dim", "64")
    ]


TEXTS = {
    f"API_KEY={SECRET}": "API_KEY=***",
    f"export API_KEY={SECRET}": "export API_KEY=***",
    f"script.args='--api-key {SECRET} --epochs 3'": "script.args='--api-key *** --epochs 3'",
    f"--api-key={SECRET} --epochs 3": "--api-key=*** --epochs 3",
    f"python t.py --api-key '{SECRET} and more' x": "python t.py --api-key '***' x",
    f"script.environment={{API_KEY:{SECRET},EPOCHS:3}}": "script.environment={API_KEY:***,EPOCHS:3}",
    f"model.args={{layers: 3, api_key: {SECRET}}}": "model.args={layers: 3, api_key: ***}",
    f'{{"api_key": "{SECRET} x", "a": 1}}': '{"api_key": "***", "a": 1}',
    f"{{'a': {{'api_key': '{SECRET}'}}}}": "{'a': {'api_key': '***'}}",
    f'told "{{\\"api_key\\": \\"{SECRET}\\"}}"': 'told "{\\"api_key\\": \\"***\\"}"',
    f"Namespace(api_key='{SECRET}', epochs=3)": "Namespace(api_key='***', epochs=3)",
    f"f(api_key={SECRET})": "f(api_key=***)",
    f'+API_KEY = "{SECRET}"  # mine': '+API_KEY = "***"  # mine',
    f"+    password: {SECRET} and more": "+    password: ***",
    f"a: 1\npassword: {SECRET}\nb: 2": "a: 1\npassword: ***\nb: 2",
    f"aws_secret_access_key = {SECRET}/x": "aws_secret_access_key = ***",
    f"-H 'Authorization: Bearer {SECRET}'": "-H 'Authorization: Bearer ***'",
    f"'tracking.password={SECRET} and more' x": "'tracking.password=***' x",
    f"password:{SECRET}": "password:***",
    f"script.secrets.HF_TOKEN={SECRET}": "script.secrets.HF_TOKEN=***",
    f"script.secrets={{A: B, HF_TOKEN: {SECRET}}}": "script.secrets={A: B, HF_TOKEN: ***}",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_secrets_in_a_text(text: str) -> None:
    assert redacted_text(text) == TEXTS[text]


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=512 --max-tokens 512 tokenizer=bert monkey=x --token-dim 64 token_dim=64",
        "script.secrets.HF_TOKEN: this variable is not set in this shell",
        "script.secrets={HF_TOKEN:HF_TOKEN} script.secrets.A_TOKEN=B",
        "write --api-key {API_KEY} and say token once more",
        "token: the session has expired; log in again",
        "--use-token --epochs 3",
        "if token == 'x': pass",
        "password=",
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-x",
    ],
)
def test_texts_without_secrets_are_left_alone(text: str) -> None:
    assert redacted_text(text) == text


def test_overrides_hide_all_that_follows_the_name() -> None:
    words = ["model.args.api_key=a b, c", "+tags.password='a b'", "name=x y", "script.args=--token 'a b' --x 1"]
    assert redacted_words(words) == [
        *("model.args.api_key=***", "+tags.password=***", "name=x y", "script.args=--token '***' --x 1")
    ]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:hunter2@host/x", "http://***@host/x"),
        ("https://hunter2@host", "https://***@host"),
        ("http://me:hun/ter2@host:5000/x", "http://***@host:5000/x"),
        ("http://me:hun@ter2@host", "http://***@host"),
        ("http://me:hu@n/ter2@host", "http://***@host"),
        ("http://me:hun:ter2@host", "http://***@host"),
        ("http://me:hun#ter2@host", "http://***@host"),
        ("http://me:hun?ter2@host", "http://***@host"),
        ("http://me:12/hunter2@host", "http://***@host"),
        ("http://me:/hunter2@host", "http://***@host"),
        ("http://:hunter2@[::1]:80/x", "http://***@[::1]:80/x"),
        ("mysql+pymysql://me:hunter2@host/db", "mysql+pymysql://***@host/db"),
        ("https://h/x?a=1&token=hunter2&b=2", "https://h/x?a=1&token=***&b=2"),
        ("https://h/x?password=hunter2#top", "https://h/x?password=***"),
        ("https://h/x?X-Amz-Signature=hunter2&X-Amz-Expires=3", "https://h/x?X-Amz-Signature=***&X-Amz-Expires=3"),
        ("https://h/x?X-Amz-Credential=hunter2", "https://h/x?X-Amz-Credential=***"),
        ("https://h/x?X-Amz-Security-Token=hunter2", "https://h/x?X-Amz-Security-Token=***"),
        ("https://h/x?AWSAccessKeyId=hunter2&Signature=hunter2", "https://h/x?AWSAccessKeyId=***&Signature=***"),
        ("https://h/x?sv=1&sig=hunter2", "https://h/x?sv=1&sig=***"),
        ("https://h/#access_token=hunter2", "https://h/#access_token=***"),
        ("retries exceeded with url: /x?api_key=hunter2 (Caused", "retries exceeded with url: /x?api_key=*** (Caused"),
        ("x='http://me:hunter2@h' y='a@b'", "x='http://***@h' y='a@b'"),
        ("http://h/a, ftp://me:hunter2@h/b", "http://h/a, ftp://***@h/b"),
        ("http://h/a,http://me:hunter2@h/b", "http://h/a,http://***@h/b"),
    ],
)
def test_addresses(address: str, shown: str) -> None:
    assert redacted_text(address) == shown
    assert redacted_text(f"at {address} there") == f"at {shown} there"
    assert redacted_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "mail a@b.c, http://h/x@y",
        "http://127.0.0.1:5000/x@y",
        "http://localhost:5000/#/a@b",
        "s3://bucket/a@b?max_tokens=3",
        "sqlite:////home/me@work/mlflow.db",
        '{"a":"http://h.org:80/x","b":"c@d"}',
        "ssh://git@github.com/x",
    ],
)
def test_addresses_without_secrets_are_left_alone(text: str) -> None:
    assert redacted_text(text) == text


@given(st.text("aB3/@:#?%&=+.-_~!$*", min_size=6))
def test_a_password_of_any_signs_is_hidden_in_an_address(password: str) -> None:
    assert password not in redacted_text(f"at http://someone:{password}@host.example/path there")


@given(st.text())
def test_any_text_can_be_redacted_and_twice_is_once(text: str) -> None:
    once = redacted_text(text)
    assert redacted_text(once) == once


@pytest.mark.parametrize("rest", [["--epochs", 3], [None], [1.5], [{"a": 1}]])
def test_an_option_is_hidden_whatever_else_its_list_holds(rest: list[object]) -> None:
    assert redacted({"args": ["--api-key", "hunter2", *rest]}) == {"args": ["--api-key", HIDDEN, *rest]}


@pytest.mark.parametrize(
    "text", ["use-class-token=avg", "temporal_token=learned", "loss_per_token=0.3", "token_labeling=mixup"]
)
def test_tokens_of_a_model_are_no_secrets(text: str) -> None:
    assert redacted_text(text) == text


def test_an_indexed_key_is_a_key() -> None:
    assert "hunter2" not in redacted_text('+os.environ["API_KEY"] = "hunter2"')
