"""The benchmarks run, and what they count is right. What they measure is not looked at."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from conftest import TEMPLATE, Project


def run(name: str, service: Project, out: Path) -> dict[str, Any]:
    """The result of the documented command, with --quick."""
    command = f"uv run --quiet --group benchmarks benchmarks/{name}.py --quick".split()
    result = subprocess.run(
        [*command, "--project", str(service.path), "--out", str(out)],
        cwd=TEMPLATE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-8000:]
    text = (out / f"{name}.json").read_text()
    # A result is published: nothing of this machine's file system is in it, or in what is printed.
    for private in (str(TEMPLATE), str(service.path)):
        assert private not in text + result.stdout
    found: dict[str, Any] = json.loads(text)
    assert {"fastapi", "sqlalchemy", "asyncpg", "uvicorn", "postgresql", "pgbouncer"} <= set(
        found["versions"]
    )
    return found


def test_throughput(service: Project, tmp_path: Path) -> None:
    result = run("throughput", service, tmp_path)
    variants = {"raw", "bare", "service", "pre_ping", "overflow", "recipe"}
    conditions = {(c["operation"], c["connections"], c["variant"]) for c in result["cells"]}
    assert conditions == {(o, n, v) for o in ("read", "write") for n in (8, 2) for v in variants}
    for cell in result["cells"]:
        assert set(cell["statuses"]) == {"200" if cell["operation"] == "read" else "201"}
        assert cell["median"]["requests_per_s"] > 0
        if cell["variant"] == "raw":
            assert set(cell["ratio_to_raw"].values()) == {1.0}
    assert (tmp_path / "throughput.svg").read_text().startswith("<?xml")


def test_burst(service: Project, tmp_path: Path) -> None:
    result = run("burst", service, tmp_path)
    assert [one["configuration"] for one in result["rounds"]] == ["service", "seeds"]
    for one in result["rounds"]:
        for phase in (one["arrival"], one["overload"]):
            assert phase["served"] + phase["shed"] + phase["errors"] == phase["sent"]
            assert phase["served"] > 0
            assert phase["livez"]["probes"] > 0
        assert one["arrival"]["served"] == result["clients"]
    ours, seeds = result["rounds"]
    # Impatient in a quick run, so that refusing is tried as well.
    assert ours["arrival"]["shed"] > 0
    assert ours["arrival"]["errors"] == ours["overload"]["errors"] == 0
    assert ours["arrival"]["livez"]["failed"] == ours["overload"]["livez"]["failed"] == 0
    assert seeds["arrival"]["shed"] == 0
