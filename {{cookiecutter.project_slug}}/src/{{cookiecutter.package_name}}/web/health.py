"""Probes for whoever runs the service."""

import asyncio
from typing import Literal

import structlog
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from {{ cookiecutter.package_name }}.database.report import log_failure
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep

router = APIRouter(tags=["health"])

# Seconds. Below the usual period of a probe (Kubernetes: 10), so that probes never pile up.
READINESS_TIMEOUT = 2


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/livez")
async def livez() -> Health:
    """The process answers. Asks nothing else: restarting it would not mend a database."""
    return Health()


@router.get("/readyz")
async def readyz(session: ReadSessionDep) -> Health:
    """The database answers a query through the pool, the way a request's query goes."""
    try:
        async with asyncio.timeout(READINESS_TIMEOUT):
            await session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        log_failure(error)
        raise HTTPException(503, "The database does not answer.") from error
    except TimeoutError as error:
        reason = f"No answer within {READINESS_TIMEOUT} s."
        structlog.get_logger().warning("not ready", reason=reason)
        raise HTTPException(503, reason) from error
    return Health()
