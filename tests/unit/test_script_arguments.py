from __future__ import annotations

import pytest

from videolift.errors import ConfigError
from videolift.script_arguments import filled, hyperparameters, options, placeholders, words_of

PATHS = {"train": "/a b/train", "model_dir": "/m"}


def test_a_path_with_spaces_stays_one_argument() -> None:
    words = words_of("--data {train} --out={model_dir}/'x y'.h5 '' \"{{train}}\"")
    assert filled(words, PATHS) == ["--data", "/a b/train", "--out=/m/x y.h5", "", "{train}"]


def test_braces_that_are_no_placeholder_are_text() -> None:
    json = '--config \'{"a": {"b": 1}}\' {} {1}'
    assert filled(words_of(json), PATHS) == ["--config", '{"a": {"b": 1}}', "{}", "{1}"]
    assert placeholders("{train} {x}/{train} {{y}}") == ["train", "x"]


def test_a_quote_that_is_not_closed_is_told() -> None:
    with pytest.raises(ConfigError, match=r"script\.args: cannot be cut into words \(no closing quotation\)"):
        words_of("--name 'x")


def test_options_are_what_argparse_would_make_of_them() -> None:
    words = words_of("first --batch-size 8 --lr=-1e-3 -v --sizes 1 2 -1 --name 'a b' --flag")
    assert options(words) == {
        **{"batch_size": "8", "lr": "-1e-3", "v": "true", "sizes": "1 2 -1", "name": "a b", "flag": "true"}
    }
    assert hyperparameters(words)["batch_size"] == 8 and hyperparameters(words)["flag"] is True
