"""SUPABASE_URL in every form that we know."""

import pytest
from pydantic import ValidationError

from orders_api.settings import (
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
        (f"{PROJECT}/", PROJECT),
        (f" '{PROJECT}/auth/v1/'\n", PROJECT),
        (f'"{PROJECT}/rest/v1"', PROJECT),
        (PROJECT.upper(), PROJECT),
        ("https://auth.example.com:443", "https://auth.example.com"),
        ("https://projects.example.com", "https://projects.example.com"),
        ("https://auth.yourproject.io", "https://auth.yourproject.io"),
        ("https://project-id.example.com", "https://project-id.example.com"),
        ("https://your-project.example.com/auth/v1", "https://your-project.example.com"),
        ("https://my-project.supabase.co", "https://my-project.supabase.co"),
        ("https://supabase.example.com:8443/", "https://supabase.example.com:8443"),
        ("http://localhost:54321", "http://localhost:54321"),
        ("http://127.0.0.1:54321/", "http://127.0.0.1:54321"),
        ("http://[::1]:54321", "http://[::1]:54321"),
        ("http://kong:8000", "http://kong:8000"),
        ("http://10.1.2.3:8000", "http://10.1.2.3:8000"),
        ("http://172.31.0.1", "http://172.31.0.1"),
        ("http://kong.auth.svc.cluster.local", "http://kong.auth.svc.cluster.local"),
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
        (" ", LIKE),
        (SECRET, LIKE),
        (f"{SECRET}.supabase.co", LIKE),
        (f"https://user:{SECRET}@ref.supabase.co", LIKE),
        (f"https://{SECRET}@ref.supabase.co", LIKE),
        (f"https://ref.supabase.co?apikey={SECRET}", LIKE),
        (f"https://ref.supabase.co#{SECRET}", LIKE),
        (f"https://ref.supabase.co:{SECRET}", LIKE),
        (f"https://[{SECRET}", LIKE),
        ("https://", LIKE),
        ("https://PROJECTREF.supabase.co", LIKE),
        ("https://project-ref.supabase.co", LIKE),
        ("https://<project-ref>.supabase.co", LIKE),
        ("https://[YOUR-PROJECT].supabase.co", LIKE),
        ("https://your-project.supabase.co", LIKE),
        ("https://your_project_id.supabase.co", LIKE),
        ("https://{project}.supabase.co", LIKE),
        ("https://YOUR_PROJECT_REF.supabase.co", LIKE),
        ("https://yourproject.supabase.co/", LIKE),
        ("https://your-ref.supabase.co", LIKE),
        ("https://project_id.supabase.co/auth/v1", LIKE),
        (f"postgresql://postgres.ref:{SECRET}@aws-0-eu.pooler.supabase.com:6543/postgres", LIKE),
        ("ftp://ref.supabase.co", LIKE),
        ("https://supabase.com/dashboard/project/abcdefghijklmnopqrst", PATH),
        ("https://ref.supabase.co/auth/v1/.well-known/jwks.json", PATH),
        ("http://ref.supabase.co", HTTP),
        ("http://10.evil.com", HTTP),
        ("http://127.0.0.1.evil.com", HTTP),
        ("http://172.32.0.1", HTTP),
        ("http://8.8.8.8", HTTP),
        ("http://[2001:db8::1]", HTTP),
        ("http://localhost.evil.com", HTTP),
        ("http://172.15.0.1", HTTP),
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
