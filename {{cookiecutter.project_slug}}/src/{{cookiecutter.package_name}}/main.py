"""The application: what it is made of, and what it opens and closes."""

import gc
import multiprocessing
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
{% if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.auth.keys import Keys
{%- endif %}
from {{ cookiecutter.package_name }}.database import metrics
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.database.caller import UserSessions
{%- endif %}
from {{ cookiecutter.package_name }}.database.engine import log_engine, open_engine
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions
{%- if cookiecutter.example_resource == "yes" %}
from {{ cookiecutter.package_name }}.items import routes as items
{%- endif %}
from {{ cookiecutter.package_name }}.logs import configure_logging
{%- if cookiecutter.auth == "supabase" and cookiecutter.example_resource == "yes" %}
from {{ cookiecutter.package_name }}.notes import routes as notes
{%- endif %}
from {{ cookiecutter.package_name }}.settings import (
    Settings,
    load_settings,
    unknown_variables,
)
from {{ cookiecutter.package_name }}.web import health
from {{ cookiecutter.package_name }}.web.dependencies import CommitBeforeResponse
from {{ cookiecutter.package_name }}.web.limits import BodyLimit, RequestLimit
from {{ cookiecutter.package_name }}.web.problems import install_problem_handlers, problems
from {{ cookiecutter.package_name }}.web.requests import RequestLog

# A UUID, with hyphens or without. The middleware's own check passes 60,000 hyphens before it, and
# what passes is in every line of the log.
REQUEST_ID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


def _end_after(parent: BaseProcess) -> None:
    """Whoever was killed can't end its workers: they would serve on, and keep the port."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application. Without `settings`, as uvicorn calls it, read the environment and log."""
    if settings is None:
        settings = load_settings()
        configure_logging(settings)
        if names := unknown_variables():
            structlog.get_logger().warning("variables that are not the service's", names=names)
        # What is imported by now stays for good. The garbage collector would look through it whenever a
        # thousand requests come at once, for 80 ms in which nobody is answered.
        gc.freeze()
        if parent := multiprocessing.parent_process():  # one of several workers, or `dev`
            Thread(target=_end_after, args=(parent,), daemon=True).start()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_engine(settings) as engine:
            log_engine(settings)
            metrics.watch(engine, settings)
{%- if cookiecutter.auth == "supabase" %}
            keys = Keys(f"{settings.supabase_url}/auth/v1", settings.supabase_jwks_url)
{%- endif %}
            yield {
                "engine": engine,
                "sessions": Sessions(engine),
                "read_session": ReadSession(engine),
{%- if cookiecutter.auth == "supabase" %}
                "user_sessions": UserSessions(engine),
                "keys": keys,
{%- endif %}
            }
{%- if cookiecutter.auth == "supabase" %}
            await keys.aclose()
{%- endif %}

    app = FastAPI(
        title="{{ cookiecutter.project_name | trim }}",
        description="{{ cookiecutter.description | trim }}",
        version=version("{{ cookiecutter.project_slug }}"),
        lifespan=lifespan,
        # Off without OTEL_EXPORTER_OTLP_ENDPOINT. Its logs would have the text of errors, in which people's
        # data are, and its metrics are in /metrics.
        telemetry={"auto_configure": True, "logs": False, "metrics": False},
        # /orders/1/, /orders/2/ ... would be redirected, and each be a label in /metrics for ever.
        redirect_slashes=False,
        responses=problems("4XX", "5XX"),
    )
    # Next to the routes: a middleware between them may run in a task of its own.
    app.add_middleware(CommitBeforeResponse)
    install_problem_handlers(app)
    # The last that is added sees a request first: what is refused costs no more than an id.
    app.add_middleware(BodyLimit)
    # A registry of its own, so that two applications in one process do not collide.
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(metrics.METRICS)
    instrumentator = Instrumentator(registry=registry).instrument(app)
    connections = settings.database_pool_size + settings.database_max_overflow
    app.add_middleware(RequestLog)
    app.add_middleware(
        RequestLimit,
        limit=connections * settings.requests_per_connection,
        connections=connections,
        exempt={"/livez", "/readyz", "/metrics"},
        refused=Counter(
            "http_requests_refused", "Requests refused at the limit.", registry=registry
        ),
    )
    app.add_middleware(
        CorrelationIdMiddleware, validator=lambda sent: bool(REQUEST_ID.fullmatch(sent))
    )
    app.include_router(health.router)
{%- if cookiecutter.example_resource == "yes" %}
    app.include_router(items.router)
{%- if cookiecutter.auth == "supabase" %}
    app.include_router(notes.router)
{%- endif %}
{%- endif %}
    instrumentator.expose(app, tags=["health"], response_class=PlainTextResponse)
    return app
