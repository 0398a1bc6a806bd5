"""The environment, and what is said when it can't be used."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from {{ cookiecutter.package_name }}.settings import (
    ConfigurationError,
    Settings,
    load_settings,
)

from tests.support import ROOT

# In the tests' own environment only: see tests/conftest.py.
TEST_VARIABLES = {"TEST_DATABASE_URL", "TEST_POOLER_URL"}
VARIABLES = {name.upper() for name in Settings.model_fields}
# In compose.yaml, as ${NAME:-default}; what has no default there is generated.
COMPOSE_DEFAULTS = dict(re.findall(r"\$\{(\w+):-(\w*)\}", (ROOT / "compose.yaml").read_text()))


def _documented() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assignments = [line.removeprefix("#") for line in lines if "=" in line and line[:2] != "# "]
    return dict(line.split("=", 1) for line in assignments)


def test_env_example_lists_every_variable_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    documented = _documented()
    documented["DATABASE_URL"] = documented["DATABASE_URL"].replace("[YOUR-PASSWORD]", "pw")
    assert documented.keys() == VARIABLES | TEST_VARIABLES | COMPOSE_DEFAULTS.keys()
    monkeypatch.setenv("DATABASE_URL", documented["DATABASE_URL"])
    defaults = load_settings()
    for name in VARIABLES:
        monkeypatch.setenv(name, documented[name])
    assert load_settings() == defaults
    assert COMPOSE_DEFAULTS.items() <= documented.items()


def test_an_env_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    (tmp_path / ".env").write_text(
        "DATABASE_URL=postgresql://file/d\nDATABASE_POOL_SIZE=3\nDATABASE_POOL_TIMEOUT=\nOTHER=1\n"
    )
    monkeypatch.setenv("DATABASE_POOL_SIZE", "4")
    settings = load_settings()
    assert str(settings.database_url) == "postgresql+asyncpg://file:5432/d"
    assert settings.database_pool_size == 4
    assert settings.database_pool_timeout == 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE_POOL", "static", "input should be 'queue' or 'null'"),
        ("DATABASE_POOL_SIZE", "0", "input should be greater than 0"),
        ("DATABASE_POOL_SIZE", "ten", "input should be a valid integer"),
        ("DATABASE_MAX_OVERFLOW", "-1", "input should be greater than or equal to 0"),
        ("DATABASE_POOL_TIMEOUT", "0", "input should be greater than 0"),
        ("DATABASE_POOL_TIMEOUT", "inf", "input should be a finite number"),
        ("DATABASE_POOL_RECYCLE", "-1", "input should be greater than 0"),
        ("DATABASE_PING_AFTER_IDLE", "-1", "input should be greater than or equal to 0"),
        ("DATABASE_CONNECT_TIMEOUT", "nan", "input should be a finite number"),
        ("DATABASE_COMMAND_TIMEOUT", "15s", "input should be a valid number"),
        ("LOG_LEVEL", "loud", "input should be 'debug', 'info', 'warning', 'error' or 'critical'"),
        ("LOG_FORMAT", "xml", "input should be 'console' or 'json'"),
    ],
)
def test_a_value_that_can_not_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:marked-secret@h/d")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    assert f"{name}: {message}" in str(refusal.value)
    assert "marked-secret" not in str(refusal.value)


def test_an_env_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    (tmp_path / ".env").write_bytes(b"DATABASE_URL=\xff")
    with pytest.raises(ConfigurationError, match="save it as UTF-8"):
        load_settings()


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_POOL_SIZE", "0")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("DATABASE_MIGRATION_URL", "mysql://u:marked-secret@h/d")
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    assert "marked-secret" not in str(refusal.value)
    for name in (
        "DATABASE_URL is not set",
        "DATABASE_MIGRATION_URL can't be used: its scheme",
        "DATABASE_POOL_SIZE: ",
        "LOG_LEVEL: ",
    ):
        assert name in str(refusal.value)


def test_the_password_is_not_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:marked-secret@h/d")
    settings = load_settings()
    told = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "marked-secret" not in told


def test_the_password_is_not_in_pydantics_own_error_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_MIGRATION_URL", "postgresql://u:marked-secret@h/d")
    with pytest.raises(ValidationError, match="database_url") as refusal:
        Settings()
    assert "marked-secret" not in str(refusal.value)
