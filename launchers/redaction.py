"""The one rule that keeps secrets out of what is printed, recorded and sent: by name, in addresses, in their queries.

- By name, in whole words: ``api_key``, ``hfToken``, ``--db-password``; of a key of a mapping, of ``name=value`` in any
  text, of an option of a command line. ``max_tokens``, ``tokenizer`` and ``monkey`` are no such names. A number is
  hidden where the name ends in such a word only: ``token_dim=64`` is shown.
- In addresses: what stands before the host, also where a password holds ``/``, ``@``, ``:``, ``?`` or ``#``.
- In queries: ``?token=``, ``&X-Amz-Signature=`` and their kin.

What only refers to a secret is shown: ``{API_KEY}``, ``$API_KEY``, ``${oc.env:API_KEY}``, the ARN of a secret of AWS
Secrets Manager, and in ``script.secrets`` the name of a variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote

from videolift.script_secrets import ARN as SECRET_ARN

HIDDEN = "***"
SECRETS = "script.secrets"  # environment name -> where the value comes from, which is no secret
METRICS = "script.metrics."  # metric -> expression: what a metric is called says nothing of the expression

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")  # of a shell; a secret that was typed in its place is hardly ever like this

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(
    r".*(?:password|passwd|passphrase|passcode|secret|apikey)s?|(?:my)?pwd|credentials?|(?:access|secret|private|account)keys?"
    r"|(?:access|api|auth|bearer|gh|hf|oauth|refresh|session)?token|authorization|jwt"
)
_KEYS = {"api", "access", "private", "secret", "account", "auth", "signing", "encryption"}  # before "key"
# Before "token": those of language and video models.
_NO_SECRET_TOKENS = {
    *("bos", "class", "cls", "dist", "distillation", "eos", "global", "mask", "pad", "patch", "per", "prompt", "query"),
    *("register", "sep", "spatial", "special", "temporal", "tube", "unk", "use", "video"),
}
# Last words of names of what a secret, or a token of a model, is described by.
_ABOUT = {
    *("aggregation", "drop", "labeling", "selection"),
    *("arn", "count", "dim", "dims", "dropout", "embedding", "embeddings", "file", "folder", "kind", "len", "length"),
    *("level", "limit", "max", "mean", "merging", "min", "mixer", "mixing", "mode", "name", "names", "num", "number"),
    *("path", "pool", "pooling", "rate", "ratio", "reduction", "shape", "size", "type", "types", "uri", "url"),
    *("variable", "vocab", "width", "window"),
}
_QUERY_WORDS = {
    "sig",
    "signature",
    "x-amz-signature",
    "x-amz-credential",
    "awsaccesskeyid",
    "x-goog-signature",
    "x-goog-credential",
}
_NO_VALUES = {"", "true", "false", "yes", "no", "on", "off", "none", "null"}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_CLOSERS = "'\")]},;>`"
_POINTER = r"(?:(?:Bearer|Basic|Token)[ \t]+)?(?:\{\w+\}|\$\{[\w.:]+\}|\$[A-Z_][A-Z0-9_]*|\*{3})|" + re.sub(
    r"\?P<\w+>", "?:", SECRET_ARN.pattern
)
_REFERENCE = re.compile(rf"{_POINTER}|\((?:\?P<\w+>|\?:)?[\\\[.].*", re.DOTALL)  # or a group of a regular expression
_REFERENCE_IN_TEXT = re.compile(rf"(?:{_POINTER})(?=[\s{re.escape(_CLOSERS)}]|$)")
_ARN = re.compile(r"arn:aws[a-z-]*:\S+")

# A scheme has a bound: without one, a long run of letters takes quadratic time.
_ADDRESS = re.compile(r"(?P<quote>[\"'])?[A-Za-z][A-Za-z0-9+.-]{0,30}://(?P<run>\S*)")
_AUTHORITY = re.compile(r"[^/?#]*")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?P<rest>:(?P<port>.*))?", re.DOTALL)
_NEXT_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")
_QUERY = re.compile(r"(?<=[?&#;])(?P<name>[\w.%-]+)=(?P<value>[^&\s]*)")
_NAME = r"[^\W\d][\w.-]*"
_PAIR = re.compile(
    rf"(?<![\w.$-])(?:--(?P<option>{_NAME})[ \t]+(?=\S)"
    rf"|(?P<dashes>-{{0,2}})(?P<name>{_NAME})(?P<quote>\\*[\"'])?\]?(?P<mark>[ \t]*(?:=>?(?![=~])|:)[ \t]*))"
)
_WORD_PAIR = re.compile(rf"(?P<before>[-+~]*(?P<name>{_NAME})=)(?P<value>.*)", re.DOTALL)
_OPTION = re.compile(rf"--?(?P<name>{_NAME})")
_DELIMITER = re.compile(r"[rbfuRBFU]{0,2}(?P<quote>\\*(?:\"\"\"|'''|[\"']))")
_LINE_BEGIN = re.compile(r"[+ -]?\s*(?:-\s+)?(?:export\s+)?")
_SCHEME = re.compile(r"(?:Bearer|Basic|Token)[ \t]+(?=\S)")


def redacted(value: Any, name: str = "") -> Any:
    """Return a plain nested value with every secret in it hidden.

    Args:
        name: what it is called.
    """
    if isinstance(value, dict):
        return _redacted_mapping(value, name)
    if isinstance(value, (list, tuple)):
        if is_secret_name(name):
            return [redacted(item, name) for item in value]
        words = redacted_words([str(item) for item in value])
        return [
            word if isinstance(item, (str, int, float)) and word != str(item) else redacted(item, name)
            for item, word in zip(value, words, strict=True)
        ]
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value
    if _is_hidden(name, str(value)):
        return HIDDEN
    return redacted_text(value) if isinstance(value, str) else value


def _redacted_mapping(value: dict[Any, Any], name: str) -> dict[Any, Any]:
    if SECRETS in (name, f"script.{name}"):
        return {key: item if is_source(str(item)) else HIDDEN for key, item in value.items()}
    if name == "metrics":  # numbers by name, or expressions that find them
        return {key: redacted(item) for key, item in value.items()}
    return {key: redacted(item, name if is_secret_name(name) else str(key)) for key, item in value.items()}


def redacted_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, or overrides, with every secret hidden."""
    found, option = [], ""
    for word in words:
        begins = _OPTION.match(word)
        if option and begins is None:
            found.append(HIDDEN if _is_hidden(option, word) else redacted_text(word))
        else:
            found.append(redacted_word(word))
        option = begins["name"] if begins and begins.end() == len(word) else ""
    return found


def redacted_word(word: str) -> str:
    """Return one word of a command line, of which all that follows ``name=`` is the value."""
    pair = _WORD_PAIR.fullmatch(word)
    if pair is None:
        return redacted_text(word)
    name, value = pair["name"], pair["value"]
    if name == SECRETS:
        return redacted_text(word)
    inside = _unquoted(value)
    return pair["before"] + (HIDDEN if _is_hidden(name, inside) else redacted_text(value))


def redacted_text(text: str) -> str:
    """Return any text, of however many lines, with every secret in it hidden."""
    return _without(_without(_without(text, _in_addresses(text)), _in_queries), _in_pairs)


def is_source(text: str) -> bool:
    """Tell whether a text says where a secret comes from: the name of a variable, or an ARN."""
    return bool(VARIABLE.fullmatch(text) or SECRET_ARN.fullmatch(text))


def is_secret_name(name: str) -> bool:
    """Tell whether something of this name is a secret, or has one in it."""
    return _depth(name) > 0


@cache
def _depth(name: str) -> int:
    """Return 2 where a name ends in a word for a secret, 1 where one stands before others, 0 where there is none."""
    if name.startswith(METRICS):
        return 0
    words = [word.lower() for word in _WORDS.findall(name)]
    secret = [_is_secret_word(words, place) for place in range(len(words))]
    if not any(secret):
        return 0
    return 2 if secret[-1] else 0 if words[-1] in _ABOUT else 1


def _is_secret_word(words: Sequence[str], place: int) -> bool:
    word, before = words[place], words[place - 1] if place else ""
    if word in ("key", "keys"):
        return before in _KEYS
    return bool(_SECRET_WORD.fullmatch(word)) and not (word == "token" and before in _NO_SECRET_TOKENS)


def _is_hidden(name: str, value: str) -> bool:
    """Tell whether a value is a secret because of its name."""
    if name.startswith(f"{SECRETS}."):
        return not is_source(value)
    depth = _depth(name)
    if not depth or value.lower() in _NO_VALUES or _REFERENCE.fullmatch(value):
        return False
    return depth == 2 or not _NUMBER.fullmatch(value)


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


Span = tuple[int, int]


def _without(text: str, spans: Any) -> str:
    """Return a text with some spans of it hidden."""
    found, last = [], 0
    for start, end in spans(text) if callable(spans) else spans:
        found += [text[last:start], HIDDEN]
        last = end
    return "".join([*found, text[last:]])


# ---- addresses


def _in_addresses(text: str) -> Iterator[Span]:
    """Yield where users and passwords stand."""
    place = 0
    while (match := _ADDRESS.search(text, place)) is not None:
        run, start = match["run"], match.start("run")
        if match["quote"]:
            run = run.partition(match["quote"])[0]
        if (further := _NEXT_ADDRESS.search(run)) is not None:
            run = run[: further.start()]
        end = _end_of_user(run)
        place = start + len(_AUTHORITY.match(run)[0])  # type: ignore[index]
        if end is not None:
            yield start, start + end
            place = start + end


def _end_of_user(run: str) -> int | None:
    """Return where in what follows ``scheme://`` its user and password end, None where there are none.

    A password may hold what ends the host's part of an address. Then what should be a port is none.
    """
    last = run.rfind("@")
    if last < 0:
        return None
    authority = _AUTHORITY.match(run)[0]  # type: ignore[index]
    if "@" not in authority:
        found = _HOST_AND_PORT.fullmatch(authority)
        if found is None or found["rest"] is None or (found["port"].isdigit() and _is_host(found["host"])):
            return None
    user, colon, password = run[:last].partition(":")
    shown = _REFERENCE.fullmatch(password) if colon else user in ("git", HIDDEN) or _REFERENCE.fullmatch(user)
    return None if shown else last


def _is_host(name: str) -> bool:
    return "." in name or name == "localhost" or name.startswith("[")


def _in_queries(text: str) -> Iterator[Span]:
    for match in _QUERY.finditer(text):
        name, value = unquote(match["name"]), match["value"].rstrip(_CLOSERS)
        if value and (_is_hidden(name, value) or _is_query_secret(name, value)):
            yield match.start("value"), match.start("value") + len(value)


def _is_query_secret(name: str, value: str) -> bool:
    return name.lower() in _QUERY_WORDS and not _REFERENCE.fullmatch(value)


# ---- names and values in a text


def _in_pairs(text: str) -> Iterator[Span]:
    place = 0
    while (match := _PAIR.search(text, place)) is not None:
        name = match["option"] or match["name"]
        place = match.end("option") if match["option"] else match.end("name")
        if name == "arn" and (arn := _ARN.match(text, match.start())):
            place = arn.end()
        if name in ("arn", SECRETS) or not (is_secret_name(name) or name.startswith(f"{SECRETS}.")):
            continue
        span = _value_of(text, match)
        if span is None or not _is_hidden(_in_secrets(text, match, name), text[span[0] : span[1]]):
            continue
        yield span
        place = span[1]


def _in_secrets(text: str, match: re.Match[str], name: str) -> str:
    """Return a name, with what it stands in where that is ``script.secrets={NAME:...}``."""
    head = text.rfind(SECRETS, 0, match.start())
    between = text[head + len(SECRETS) : match.start()]
    inside = head >= 0 and "{" in between and "}" not in between
    return f"{SECRETS}.{name}" if inside else name


def _value_of(text: str, match: re.Match[str]) -> Span | None:
    """Return where the value of a name is, None where what follows is none."""
    start, mark = match.end(), match["mark"] or ""
    opened = text[match.start() - 1] if match.start() else "\n"
    of_query, of_address = mark == "=" and opened in "?&#;", text.startswith("//", start)
    if start == len(text) or of_query or of_address or _REFERENCE_IN_TEXT.match(text, start):
        return None
    if (quoted := _DELIMITER.match(text, start)) is not None:
        return _inside(text, quoted.end(), quoted["quote"])
    if match["option"]:
        return None if _OPTION.match(text, start) else _run(text, start)
    if mark == "=" and opened in "'\"" and not match["dashes"] and not match["quote"]:
        return _inside(text, start, opened)
    return _bare(text, match)


def _bare(text: str, match: re.Match[str]) -> Span | None:
    """Return where a value without quotes is."""
    start, mark = match.end(), match["mark"]
    if match["quote"]:  # JSON
        return _run(text, start, ",}])")
    if ":" in mark and text[: match.start()].rstrip()[-1:] in ("{", ","):  # a mapping in a line
        return _run(text, start, ",}")
    if mark in ("=", ":"):
        return _run(text, start)
    if (scheme := _SCHEME.match(text, start)) is not None:
        return _run(text, scheme.end())
    return _rest_of_line(text, match)


def _inside(text: str, start: int, quote: str) -> Span:
    """Return what a quote encloses, up to the end of the line where it is not closed."""
    closing = re.compile(rf"(?<!\\){re.escape(quote)}|\n" if len(quote) == 1 else re.escape(quote))
    found = closing.search(text, start)
    return start, found.start() if found else len(text)


def _run(text: str, start: int, ends: str = "") -> Span:
    """Return what stands up to a space, or to one of some characters, without closing brackets behind it."""
    found = re.compile(rf"[^\s{re.escape(ends)}]*").match(text, start)
    assert found
    return start, start + len(found[0].rstrip(_CLOSERS) or found[0])


def _rest_of_line(text: str, match: re.Match[str]) -> Span | None:
    """Return the value of a line of a file of settings: YAML's ``name: value``, or ``name = value``."""
    before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    if not _LINE_BEGIN.fullmatch(before) or "." in match["name"]:
        return None
    rest = text[match.end() :].partition("\n")[0].rstrip()
    words = rest.split()
    if "=" in match["mark"]:
        fits = len(words) == 1 and not set(rest) & set("([{")
    else:
        fits = len(words) == 1 or (bool(words) and before != "" and rest[0] not in "|>&")
    return (match.end(), match.end() + len(rest)) if fits else None
