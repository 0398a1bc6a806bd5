"""What the text of a statement says about itself, told strictly: what is not understood is a no."""

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

KEPT_LENGTH = 8 * 1024  # characters

# Built-in types whose OIDs never change, without length or precision. CHAR is not among them: without
# a length it is CHAR(1), and as TEXT it would lose its blanks.
_TYPE = (
    r"(?:BIGINT|INTEGER|SMALLINT|NUMERIC|FLOAT|REAL|DOUBLE PRECISION|BOOLEAN|VARCHAR|TEXT|BYTEA|UUID"
    r"|DATE|INTERVAL|JSONB?|TIME(?:STAMP)? WITH(?:OUT)? TIME ZONE)(?:\[\])*"
)
_QUOTED = r'"(?:[^"]|"")+"'
_NAME = rf"(?:[A-Za-z_][A-Za-z0-9_]*|{_QUOTED})"
_COLUMN = rf"(?:{_NAME}\.)?(?:{_NAME}\.)?{_NAME}"
_VALUE = rf"(?:{_COLUMN}|[a-z_0-9]+\((?:\*|{_COLUMN})\))"  # or a function of one: count(*), max(a)
_RESULT = rf"(?:CAST\({_VALUE} AS {_TYPE}\)|\$[0-9]+::{_TYPE})(?: AS {_NAME})?(?=,|\s|$)"
_RESULTS = rf"{_RESULT}(?:, {_RESULT})*"

_FIXED_TYPE = re.compile(_TYPE)
_SELECT = re.compile(rf"SELECT (?:DISTINCT )?{_RESULTS}(?=\s+FROM\s|$)")
_WRITE = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM)\s")
_RETURNING = re.compile(rf" RETURNING {_RESULTS}$")
_FIXED_PARAMETER = re.compile(rf"\$[0-9]+::{_TYPE}(?![\w\[(])|(?<=CAST\()\$[0-9]+ AS {_TYPE}(?=\))")
# A string, a comment or a second statement may hide anything. A branch of a UNION, another query's
# results and a nested RETURNING have a say in the types of the whole.
_HIDES = re.compile(
    r"['\\;]|--|/\*|\$[^0-9]|(?<![A-Za-z_])(?:UNION|INTERSECT|EXCEPT|RETURNING|INTO)(?![A-Za-z_])",
    re.IGNORECASE,
)

_STRING = r"[eE]'(?:\\.|''|[^'\\])*'|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_NO_CODE = re.compile(rf"(?P<name>{_QUOTED})|{_STRING}|--[^\n]*|/\*.*?\*/", re.DOTALL)
_READS = re.compile(
    r"\s*(?:EXPLAIN(?:\s+ANALY[SZ]E|\s+VERBOSE|\s*\([^)]*\))*\s+)?(?:[\s(]*(?:SELECT|WITH|VALUES|TABLE)|SHOW)\b",
    re.IGNORECASE,
)
_WRITES = re.compile(
    r"\bINTO\b|\bDELETE\s+FROM\b|\bUPDATE\b.*\bSET\b|;\s*\S"
    r"|\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b|\bFOR\s+(?:KEY\s+)?SHARE\b",
    re.IGNORECASE | re.DOTALL,
)
_NEEDS_A_TRANSACTION = re.compile(
    r"\b(?:set_config|pg_(?:try_)?advisory_\w+)\"?\s*\(", re.IGNORECASE
)

# What a server connection keeps after the transaction: statements that begin so, with single blanks and
# in small letters, and those that have one of these in them.
_BEGINS_LASTING = re.compile(
    r"\W*(?:set (?!(?:local|transaction|constraints) )|(?:reset|discard|(?:un)?listen|load|deallocate)\b"
    r"|prepare (?!transaction\b)|declare (?:(?!for ).)*with hold\b)"
)
_LASTING = re.compile(
    r"\bcreate (?:or replace )?(?:local |global )?temp(?:orary)? (?!table .*\bon commit drop\b)"
    r"|(?<!\binsert )(?<!\bmerge )\binto (?:local |global )?temp(?:orary)? (?!from\b)"
    r"|\b(?:create [\w ]*|(?<!\binsert )into (?:table )?)\"?pg_temp\"? ?\.(?!.*\bon commit drop\b)"
    r"|\bpg_(?:try_)?advisory_(?:un)?lock\w*\"? ?\(|\bupdate (?:only )?(?:pg_catalog\.)?pg_settings\b"
)
_ARGUMENT = r"(?:[^(),]|\((?:[^()]|\([^()]*\))*\))*"
_SETS = re.compile(r"\bset_config\"? ?\(")
_SETS_LOCALLY = re.compile(
    rf"{_SETS.pattern}{_ARGUMENT},{_ARGUMENT}, ?(?:cast\( ?)?(?:true|\$(?P<number>\d+))"
    r"(?: ?:: ?bool(?:ean)?| as bool(?:ean)? ?\))? ?\)"
)
# Without any of these, a statement leaves nothing.
_MAY_LAST = ("set_config", "advisory", "temp", "pg_settings", ";", "--", "/*")
_MAY_BEGIN = re.compile(
    r"\W*(?:set|reset|discard|listen|unlisten|load|deallocate|prepare|declare)\b"
)


def remembered(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Of what is long only the last few: a list of every length is a statement of its own."""
    kept, long = lru_cache(maxsize=4096)(function), lru_cache(maxsize=8)(function)

    @wraps(function)
    def look_up(statement: str) -> Any:
        return (kept if len(statement) <= KEPT_LENGTH else long)(statement)

    return look_up


def fixed_type(rendered: str) -> str | None:
    """The built-in type behind a rendered one, without its length: `VARCHAR` for `VARCHAR(200)`. None, if
    it is none of those whose values look the same for ever."""
    rendered = re.sub(r"^FLOAT\((?:1?\d|2[0-4])\)", "REAL", rendered)
    plain = re.sub(r"\([0-9, ]+\)", "", rendered)
    return plain if _FIXED_TYPE.fullmatch(plain) else None


def uncut_type(rendered: str) -> str:
    """A type of strings as a cast that leaves them as they are: `BPCHAR[]` for `CHAR(3)[]`. CHAR and BIT
    without a length have one of 1, but not by their other names."""
    rendered = re.sub(r"^N?CHAR(?:\(\d+\))?(?!\w)", "BPCHAR", rendered)
    rendered = re.sub(r"^BIT\(\d+\)", '"bit"', rendered)
    return re.sub(r"^(VARCHAR|BIT VARYING)\(\d+\)", r"\1", rendered)


@remembered
def is_sealed(statement: str) -> bool:
    """Whether a statement's own text fixes the type of every result column and parameter, so that its
    description may be kept: see `database/dialect.py`."""
    text = statement.strip()
    if select := _SELECT.match(text):
        rest = text[select.end() :]
    elif _WRITE.match(text):
        returning = _RETURNING.search(text)
        rest = text[: returning.start()] if returning else text
        rest = re.sub(r"^INSERT INTO", "INSERT", rest)
    else:
        return False
    rest = _FIXED_PARAMETER.sub("", re.sub(_QUOTED, "x", rest))
    return "$" not in rest and '"' not in rest and not _HIDES.search(rest)


@remembered
def only_reads(statement: str) -> bool:
    """Whether a statement does by itself what it says: no write, and nothing that needs a transaction
    to have an effect, such as a row lock, an advisory lock or a setting. What a function does can't be
    seen."""
    code = _NO_CODE.sub(lambda found: found["name"] or " ", statement)
    words = re.sub(_QUOTED, "x", code)
    return (
        _READS.match(words) is not None
        and _WRITES.search(words) is None
        and _NEEDS_A_TRANSACTION.search(code) is None
    )


@remembered
def what_lasts(statement: str) -> tuple[bool, tuple[int, ...]]:
    """Whether a statement leaves something on the server connection for whoever comes next, and the
    numbers of the parameters that must be true or it does. What a function does can't be seen."""
    text = statement.lower()
    if not any(word in text for word in _MAY_LAST) and not _MAY_BEGIN.match(text):
        return False, ()
    code = _NO_CODE.sub(_only_words, statement).lower()
    parts = [" ".join(part.split()) + " " for part in code.split(";")]
    for part in parts:
        if _BEGINS_LASTING.match(part) or _LASTING.search(part):
            return True, ()
    code = "".join(parts)
    locally = [found["number"] for found in _SETS_LOCALLY.finditer(code)]
    return len(locally) < len(_SETS.findall(code)), tuple(int(it) for it in locally if it)


def _only_words(found: re.Match[str]) -> str:
    name = found["name"]
    return name if name and name[1:-1].isidentifier() else " x " if name else " "
