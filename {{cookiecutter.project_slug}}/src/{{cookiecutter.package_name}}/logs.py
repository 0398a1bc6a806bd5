"""Structured logs: the service's own, uvicorn's and every library's, in one format."""

import logging
import sys
import traceback

import structlog
from asgi_correlation_id import correlation_id
from sqlalchemy.exc import StatementError
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from {{ cookiecutter.package_name }}.database.failures import related
from {{ cookiecutter.package_name }}.database.metrics import trace_id
from {{ cookiecutter.package_name }}.database.report import hide_values
from {{ cookiecutter.package_name }}.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Log to standard output, with the id of the request that is being served."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        # plain_traceback: what has been formatted stays as it is.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
        )

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(format_traceback),
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)


def format_traceback(exc_info: ExcInfo) -> str:
    """As Python prints it, without local variables, passwords among them, and values of a statement."""
    error = exc_info[1]
    for it in related(error):
        hide_values(it)
        if isinstance(it, StatementError):
            it.__cause__ = None  # what it was raised from may be a codec, which was given the value
    return "".join(traceback.format_exception(error)).rstrip("\n")


def _add_ids(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    if (request_id := correlation_id.get()) is not None:
        event["request_id"] = request_id
    if (traced := trace_id()) is not None:
        event["trace_id"] = traced
    return event
