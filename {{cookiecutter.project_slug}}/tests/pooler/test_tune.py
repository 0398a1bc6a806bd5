"""`tune` drives the service's own engine, so it goes the way of every request."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from {{ cookiecutter.package_name }} import cli
from {{ cookiecutter.package_name }}.observe import load


async def test_a_pooler_that_is_smaller_than_the_pool_is_named_as_the_limit(
    one_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger pool would be a larger waiting room."""
    monkeypatch.setenv("DATABASE_URL", f"{one_backend}?sslmode=disable")
    monkeypatch.setenv("COLUMNS", "500")  # no sentence is folded
    monkeypatch.setattr(load, "SETTLE", 0.01)
    page = tmp_path / "page.html"
    options = ["--hold", "10ms", "--concurrency", "4", "--max-pool", "3", "--seconds", "0.05"]
    tune = ["tune", *options, "--page", str(page)]
    result = await asyncio.to_thread(CliRunner().invoke, cli.main, tune)
    assert result.exit_code == 0, result.output
    assert "The pooler is the limit: its server connections for this login are 1," in result.output
    assert "the pooler has 1" in page.read_text()
