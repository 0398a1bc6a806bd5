"""The generated application, and a route that holds a connection for a while."""

from fastapi import FastAPI
from orders_api import main
from orders_api.web.dependencies import SessionDep
from seeds import HOLD


def create_app() -> FastAPI:
    """The service with `GET /hold`."""
    app = main.create_app()

    @app.get("/hold")
    async def hold(session: SessionDep) -> dict[str, str]:
        await session.execute(HOLD)
        return {"status": "held"}

    return app
