"""The service with a ledger, as a process of its own: what the faults are tried on.

`python -m tests.service.faults.service serve ...` is `orders-api serve ...` with a few more routes.
"""

from fastapi import FastAPI, Request
from sqlalchemy import text

from orders_api import cli, main
from orders_api.web.dependencies import ReadSessionDep, SessionDep


def create_app() -> FastAPI:
    app = main.create_app()

    @app.post("/entries/{number}", status_code=201)
    async def write(number: int, session: SessionDep) -> None:
        await session.execute(text("INSERT INTO ledger VALUES (:number)"), {"number": number})

    @app.get("/entries/{number}")
    async def read(number: int, session: ReadSessionDep) -> bool:
        query = text("SELECT EXISTS (SELECT FROM ledger WHERE number = :number)")
        return bool((await session.execute(query, {"number": number})).scalar_one())

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(1.5)"))

    @app.get("/checked-out")
    async def checked_out(request: Request) -> int:
        connections: int = request.state.engine.pool.checkedout()
        return connections

    return app


if __name__ == "__main__":
    cli.APP = "tests.service.faults.service:create_app"
    cli.main()
