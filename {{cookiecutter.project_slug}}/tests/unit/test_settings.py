"""The environment, and what is said when it can't be used."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from {{ cookiecutter.package_name }}.settings import (
    ConfigurationError,
    Settings,
    load_settings,
    unknown_variables,
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
    documented = {
        name: value.replace("[YOUR-PASSWORD]", "pw").replace("PROJECTREF", "ref")
        for name, value in _documented().items()
    }
    assert documented.keys() == VARIABLES | TEST_VARIABLES | COMPOSE_DEFAULTS.keys()
    for name, field in Settings.model_fields.items():
        if field.is_required():
            monkeypatch.setenv(name.upper(), documented[name.upper()])
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
        "DATABASE_URL=postgresql://u@file/d\nDATABASE_POOL_SIZE=3\nDATABASE_POOL_TIMEOUT=\nOTHER=1\n"
    )
    monkeypatch.setenv("DATABASE_POOL_SIZE", "4")
    settings = load_settings()
    assert str(settings.database_url) == "postgresql+asyncpg://u@file:5432/d"
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


def test_an_env_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if of another user: root, who may run the tests, can read any."""
    (tmp_path / ".env").touch()
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
        with pytest.raises(ConfigurationError, match="can't be read: Permission denied"):
            load_settings()


def test_an_env_file_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://h/d\r\n", encoding="utf-8-sig")
    assert load_settings().database_url.url.host == "h"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
        ("database_pool_tmeout", "DATABASE_POOL_TIMEOUT"),
        ("DATABASE_MIGRATIONS_URL", "DATABASE_MIGRATION_URL"),
        ("DATABASE_SSL_ROOTCERT", "DATABASE_SSL_ROOT_CERT"),
        ("REQUEST_PER_CONNECTION", "REQUESTS_PER_CONNECTION"),
        ("LOGLEVEL", "LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_right_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    """Otherwise the service runs with a default that nobody chose."""
    told = f"{name.upper()} is not a variable of this service. Is {near} meant?"
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:marked-secret@h/d")
    with monkeypatch.context() as patch:
        patch.setenv(name, "marked-secret")
        with pytest.raises(ConfigurationError) as refusal:
            load_settings()
        assert told in str(refusal.value)
        assert "marked-secret" not in str(refusal.value)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    (tmp_path / ".env").write_text(f"{name}=1\n")
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        load_settings()


def test_variables_of_others_do_not_stop_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform's, those that Kubernetes sets for a service named database, an empty one."""
    others = {"DATABASE_HOST", "DATABASE_PORT", "DATABASE_USER", "DATABASE_NAME", "DATABASE_URI"}
    others |= {"DATABASE_PASSWORD", "DATABASE_PORT_5432_TCP", "DATABASE_POOL_SERVICE_HOST"}
    for name in ("DATABASE_URL", *others, "LOG_FILE", "CATALOG_LEVEL"):
        monkeypatch.setenv(name, "postgresql://h/d")
    monkeypatch.setenv("DATABASE_POOLSIZE", "")
    assert load_settings().database_pool_size == 10
    assert set(unknown_variables()) == others
    monkeypatch.setenv("DATABASE_POOLSIZE", "5")  # and what is meant is set, too
    monkeypatch.setenv("DATABASE_POOL_SIZE", "9")
    assert load_settings().database_pool_size == 9


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
