"""SUPABASE_URL as people paste it, and what is said about one that can't be used."""

import pytest
from pydantic import ValidationError

from {{ cookiecutter.package_name }}.settings import (
    ConfigurationError,
    Settings,
    load_settings,
)

SECRET = "marked-secret"
PROJECT = "https://abcdefghijklmnopqrst.supabase.co"


@pytest.fixture(autouse=True)
def _database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{SECRET}@h/d")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (PROJECT, PROJECT),
        (f" '{PROJECT}/auth/v1/'\n", PROJECT),
        (PROJECT.upper(), PROJECT),
        ("http://127.0.0.1:54321/", "http://127.0.0.1:54321"),
        ("http://kong:8000", "http://kong:8000"),
    ],
)
def test_a_url_is_taken_as_the_dashboard_shows_it(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: str
) -> None:
    monkeypatch.setenv("SUPABASE_URL", text)
    settings = load_settings()
    assert settings.supabase_url == meant
    assert settings.supabase_jwks_url is None


LIKE = "it is not like https://PROJECTREF.supabase.co"
HTTP = "Write https"
PATH = "Write the Project URL, https://PROJECTREF.supabase.co"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SUPABASE_URL is not set. Add it to .env"),
        (f"https://user:{SECRET}@ref.supabase.co", LIKE),
        (f"https://ref.supabase.co?apikey={SECRET}", LIKE),
        ("https://[YOUR-PROJECT].supabase.co", LIKE),
        (f"postgresql://postgres.ref:{SECRET}@aws-0-eu.pooler.supabase.com:6543/postgres", LIKE),
        ("https://supabase.com/dashboard/project/abcdefghijklmnopqrst", PATH),
        ("http://ref.supabase.co", HTTP),
    ],
)
def test_refusals_name_the_problem_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("SUPABASE_URL", text)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)
    with pytest.raises(ValidationError) as error:
        Settings()
    assert SECRET not in str(error.value)


def test_the_keys_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", PROJECT)
    monkeypatch.setenv("SUPABASE_JWKS_URL", "http://kong:8000/auth/v1/.well-known/jwks.json")
    assert load_settings().supabase_jwks_url == "http://kong:8000/auth/v1/.well-known/jwks.json"
    for text in ("http://ref.supabase.co/keys", f"https://u:{SECRET}@h/keys", "keys.json"):
        monkeypatch.setenv("SUPABASE_JWKS_URL", text)
        with pytest.raises(ConfigurationError, match="SUPABASE_JWKS_URL can't be used") as refusal:
            load_settings()
        assert SECRET not in str(refusal.value)
