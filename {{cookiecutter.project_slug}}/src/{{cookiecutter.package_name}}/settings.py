"""Every environment variable of the service, with its unit and its default.

`.env.example` has the reasons, and the README's table the first sentence of each docstring here.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

{% if cookiecutter.auth == "supabase" -%}
from {{ cookiecutter.package_name }}.auth.url import ProjectURL, WebURL
{% endif -%}
from {{ cookiecutter.package_name }}.database.url import DatabaseURL, parse_url


def _parse(value: object, info: ValidationInfo) -> DatabaseURL:
    if isinstance(value, DatabaseURL):
        return value
    return parse_url(str(value), info.data.get("database_ssl_root_cert"))


Seconds = Annotated[FiniteFloat, Field(gt=0)]
Url = Annotated[DatabaseURL, NoDecode, PlainValidator(_parse), PlainSerializer(str)]


class ConfigurationError(SystemExit):
    """The message names each variable, its problem and the fix. Whatever started the process ends with
    exit code 1 and the message alone, without a traceback."""


class Settings(BaseSettings):
    """What the environment says, and a `.env` file in the working directory where it says nothing."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",  # with the mark that Windows puts first, or without
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # Otherwise a validation error prints the value, and so the password.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    # Before the URLs, whose CA it is.
    database_ssl_root_cert: Path | None = None
    """A CA file (PEM), or `system` for the machine's, with which the server's certificate and host
    name are verified; `sslrootcert` in the URL wins."""

    database_url: Url
    """Where PostgreSQL is, through the pooler's transaction mode: any libpq-style URL, pasted as the
    dashboard gives it."""

    database_migration_url: Url | None = None
    """Where `migrate` connects, directly or in session mode; `DATABASE_URL` if it is not set."""

    database_pool: Literal["queue", "null"] = "queue"
    """`queue` keeps connections; `null` opens one for every checkout, for functions that freeze
    between requests."""

    database_pool_size: PositiveInt = 10
    """Connections that each process keeps."""

    database_max_overflow: NonNegativeInt = 0
    """Connections above the pool size, each of which is closed when it comes back."""

    database_pool_timeout: Seconds = 5
    """Seconds a request waits for a connection of the pool to become free before it is answered 503."""

    database_pool_recycle: PositiveInt = 1800
    """Seconds after which a connection is replaced, so that a moved pooler or a new DNS entry is
    noticed."""

    database_ping_after_idle: Annotated[FiniteFloat, Field(ge=0)] = 30
    """Seconds in the pool after which a connection is pinged before use; 0 pings always."""

    database_connect_timeout: Seconds = 5
    """Seconds for a new connection: TCP, TLS and authentication together; `connect_timeout` in the
    URL wins."""

    database_command_timeout: Seconds = 15
    """Seconds after which the client gives up on a statement and cancels it, migrations excepted."""

    requests_per_connection: PositiveInt = 20
    """Requests in flight for each connection of the pool; further ones are answered 503 at once."""

{%- if cookiecutter.auth == "supabase" %}

    supabase_url: ProjectURL
    """The project whose Auth issues the callers' tokens: `https://PROJECTREF.supabase.co`."""

    supabase_jwks_url: WebURL | None = None
    """Where the keys of those tokens are; `/auth/v1/.well-known/jwks.json` of `SUPABASE_URL` if it is not
    set."""
{%- endif %}

    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(str.lower)
    ] = "info"
    """The lowest level that is logged: `debug`, `info`, `warning`, `error` or `critical`."""

    log_format: Literal["console", "json"] = "json"
    """`json` writes one object a line, for machines; `console` is for people."""


def load_settings() -> Settings:
    """Read the environment, or raise a `ConfigurationError`."""
    try:
        problems = _misspelt()
        settings = Settings()
    except UnicodeDecodeError:
        raise ConfigurationError("The file .env can't be read: save it as UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(
            f"The file .env can't be read: {error.strerror}. Let this user read it, or remove it."
        ) from None
    except ValidationError as error:
        problems += [
            _explain(".".join(map(str, detail["loc"])).upper(), detail["type"], detail["msg"])
            for detail in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise ConfigurationError("\n".join(["The configuration can't be used:", *problems]))
    return settings


def unknown_variables() -> list[str]:
    """What is set and named like the service's variables, but is none of them."""
    names, ours = _variables()
    return sorted(it for it in names - ours if it.startswith("DATABASE_"))


def _misspelt() -> list[str]:
    """A line for each variable that is nearly one of the service's which is not set.

    A pool size that nobody chose would be noticed under load. If a platform sets such a name for others,
    setting the right one too is the way out.
    """
    # 0.9: DATABASE_POOLSIZE and LOGLEVEL are near one, DATABASE_HOST and DATABASE_USER are not.
    names, ours = _variables()
    return [
        f"  {it} is not a variable of this service. Is {right} meant? If not, set that one too."
        for it in sorted(names - ours)
        for right in get_close_matches(it, ours - names, n=1, cutoff=0.9)
    ]


def _variables() -> tuple[set[str], set[str]]:
    """Those that are set, in the environment or in the .env file, and the service's."""
    sources = EnvSettingsSource(Settings), DotEnvSettingsSource(Settings)
    names = {name.upper() for source in sources for name in source.env_vars}
    return names, {name.upper() for name in Settings.model_fields}


def _explain(variable: str, kind: str, message: str) -> str:
    if kind == "value_error":
        return f"  {variable} can't be used: {message.removeprefix('Value error, ')}"
    if kind != "missing":
        return f"  {variable}: {message[0].lower()}{message[1:]}. See .env.example."
    schemes = ("postgres://", "postgresql://")
    found = [it for it, value in os.environ.items() if value.startswith(schemes)]
    if found and variable == "DATABASE_URL":
        return f"  {variable} is not set. {found[0]} has a connection string: give it this name."
    return (
        f"  {variable} is not set. Add it to .env, as .env.example describes it, or export it "
        "(`dev` prints the lines for its own database)."
    )
