"""With OTEL_EXPORTER_OTLP_ENDPOINT a request is traced, to the database and back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from httpx import AsyncClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from devstack import free_port
from tests.support import Database, served

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def collector() -> AsyncIterator[tuple[str, list[Span]]]:
    """Where spans can be sent to, and those that were."""
    app, spans = FastAPI(), list[Span]()

    async def export(request: Request) -> None:
        sent = ExportTraceServiceRequest.FromString(await request.body())
        spans.extend(
            span
            for resource in sent.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )

    app.add_api_route("/v1/traces", export, methods=["POST"])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    task = asyncio.create_task(server.serve())
    yield f"http://127.0.0.1:{port}", spans
    server.should_exit = True
    await task


async def test_a_request_is_one_trace_down_to_its_statements(
    database: Database, tmp_path: Path, collector: tuple[str, list[Span]]
) -> None:
    endpoint, spans = collector
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "LOG_LEVEL": "debug"}
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with served(database.pooler_url, tmp_path, **env) as service:
        assert (await service.client.get("/readyz", headers=headers)).status_code == 200
        problem = (await service.client.get("/nowhere", headers=headers)).json()
    assert problem["trace_id"] == TRACE
    ours = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    request, statement = ours["GET /readyz"], ours["SELECT"]
    ids = {span.span_id: span.parent_span_id for span in spans}
    parent = statement.parent_span_id
    while parent in ids and parent != request.span_id:
        parent = ids[parent]
    assert parent == request.span_id
    told = {it.key: it.value.string_value for it in statement.attributes}
    assert told["db.system.name"] == "postgresql"
    assert told["db.query.text"].startswith("SELECT")
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert {it["trace_id"] for it in lines if it.get("route") == "/readyz"} == {TRACE}


async def test_without_it_nothing_is_traced(client: AsyncClient) -> None:
    assert "trace_id" not in (await client.get("/nowhere")).json()
