"""Ordinary routes, as FastAPI's tutorial shows them, by somebody who has read nothing of ours: the suite
stays green. Where an owner has to say something, the failing test says what."""

from conftest import Project, Service, run_copied

ORDINARY = """
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Cookie, FastAPI, Header, HTTPException, Query, Request, WebSocket
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import text

from orders_api.web.dependencies import ReadSessionDep, SessionDep

router = APIRouter(prefix="/first")
nested = APIRouter(prefix="/nested")


class Colour(Enum):
    RED = "red"


class Thing(BaseModel):
    name: str
    size: int = 3
    price: Decimal | None = None
    due: datetime | None = None
    tags: list[str] = []
    colour: Colour = Colour.RED


class Filter(BaseModel):
    limit: int = Field(100, gt=0, le=100)
    order: Literal["up", "down"] = "up"


@router.get("/hello/{n}")
async def hello(n: int):
    return {"hello": n}


@router.post("/things", status_code=201)
async def create(thing: Thing) -> Thing:
    return thing


@router.put("/things/{key}", response_model=Thing)
async def put(key: UUID, thing: Thing, mark: Annotated[int, Body()] = 1):
    return thing


@router.get("/things/count")
async def count() -> int:
    return 1


@router.get("/things/{key}")
async def read(key: int, session: ReadSessionDep) -> int:
    query = text("SELECT CAST(:key AS bigint)")
    return (await session.execute(query, {"key": key})).scalar_one()


@router.delete("/things/{key}", status_code=204)
async def delete(key: str) -> None:
    raise HTTPException(404)


@router.post("/unique")
async def unique(name: str, session: SessionDep) -> None:
    await session.execute(text("CREATE TEMPORARY TABLE u (n text UNIQUE) ON COMMIT DROP"))
    await session.execute(text("INSERT INTO u VALUES ('a'), ('a')"))


@router.get("/query")
async def query(
    filtered: Annotated[Filter, Query()], x_mark: Annotated[int, Header()] = 1,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, Any]:
    return {}


@router.get("/dates/{day}")
async def dates(day: date, fraction: float, many: Annotated[list[int], Query()]) -> date:
    return day


@router.get("/text", response_class=PlainTextResponse)
async def text_(name: str = "a") -> str:
    return name


@router.get("/elsewhere", response_class=RedirectResponse)
async def elsewhere() -> str:
    return "/livez"


@router.get("/teapot")
async def teapot(n: int) -> int:
    raise HTTPException(418, "short and stout")


@router.get("/own/{n}", responses={404: {"description": "There is none"}})
async def own(n: int) -> int:
    raise HTTPException(404)


@router.post("/raw")
async def raw(request: Request) -> int:
    return len(await request.body())


@nested.get("/{path:path}")
async def any_path(path: str) -> str:
    return path


@nested.websocket("/live")
async def live(websocket: WebSocket) -> None: ...


router.include_router(nested)
mounted = FastAPI()
mounted.get("/hello/{n}")(hello)


def add(app: FastAPI) -> None:
    app.include_router(router)
    app.add_api_route("/added/{n}", hello, methods=["PATCH"])
    app.mount("/mounted", mounted)
"""

TO_SAY = """
from fastapi import FastAPI, Response


def add(app: FastAPI) -> None:
    @app.get("/made")
    async def made() -> Response:
        return Response("made", 202, media_type="text/plain")
"""


def checked(service: Service, copied: Project, routes: str) -> tuple[int, str]:
    """The schema's test with these routes in the service."""
    package = copied.path / "src" / copied.package
    (package / "first.py").write_text(routes)
    main = package / "main.py"
    add = "    from orders_api import first\n\n    first.add(app)\n    return app\n"
    main.write_text(main.read_text().replace("    return app\n", add))
    result = run_copied(service, copied, "-q", "-k", "keeps_to_its_schema", "tests/api")
    return result.returncode, result.stdout


def test_ordinary_routes_are_right_in_the_document(service: Service, copied: Project) -> None:
    code, told = checked(service, copied, ORDINARY)
    assert code == 0, told[-8000:]


def test_what_an_owner_has_to_say_is_told(service: Service, copied: Project) -> None:
    code, told = checked(service, copied, TO_SAY)
    assert code == 1
    assert "`responses=`" in told
