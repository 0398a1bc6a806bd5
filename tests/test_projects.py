"""What the supported combinations of answers make.

| answer             | supported                        | here                                         |
|--------------------|----------------------------------|----------------------------------------------|
| `example_resource` | `yes`, `no`                      | tests of what differs, see `DIFFERING`; with it all: test_workflow.py |
| `auth`             | `none`, `supabase`               | as `example_resource`                        |
| `pooler`           | `supavisor`, `pgbouncer`         | both; the suites run through PgBouncer       |
| `license`          | `Proprietary`, `MIT`, `Apache-2.0` | file and metadata                          |
| `minimum_python`   | `3.11` ... `3.14`                | linted and typed as such; the suites run on the Python that runs these tests |
| names              | up to 40 characters              | 2 and 40 characters, and letters of any script |

Not supported: Windows without WSL (PostgreSQL's wheel and PgBouncer are for Unix), Python 3.10 and
older (FastAPI needs 3.11).
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE, Project, bake, devstack, environment, query

LICENSES = {"Proprietary": None, "MIT": "MIT License", "Apache-2.0": "Apache License"}
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
POOLERS = ["supavisor", "pgbouncer"]
EXAMPLES = ["yes", "no"]
AUTHS = ["none", "supabase"]

# Most of tests/pooler looks at database/ alone, and neither depends on an answer.
DIFFERING = [
    *(f"tests/{name}" for name in ("api", "migrations", "unit")),
    *(f"tests/pooler/test_{name}.py" for name in ("doctor", "settings", "tune")),
]
SAME = ["src/{{cookiecutter.package_name}}/database", "tests/pooler"]

LONG = {"project_slug": "orders-of-all-the-shops-in-all-the-towns", "owner": "Größe & Söhne"}


def combinations() -> Iterator[dict[str, str]]:
    """All of what decides over code, with each licence in turn, which decides over two files."""
    answers = product(PYTHONS, POOLERS, EXAMPLES, AUTHS)
    for license, (python, pooler, example, auth) in zip(cycle(LICENSES), answers, strict=False):
        yield {
            "license": license,
            "minimum_python": python,
            "pooler": pooler,
            "example_resource": example,
            "auth": auth,
        }
    for auth in AUTHS:
        yield {"project_slug": "ab", "auth": auth}
        yield {"project_slug": "zz-top", "auth": auth}
        yield LONG | {"auth": auth}


@pytest.mark.parametrize(
    "answers", list(combinations()), ids=lambda answers: "-".join(answers.values())
)
def test_every_combination_is_of_one_piece(tmp_path: Path, answers: dict[str, str]) -> None:
    """Rendered, parseable, formatted and linted, without a scar where an option was left out."""
    project = bake(tmp_path, **answers)
    for path in project.files():
        text = path.read_text()
        # GitHub has ${{ }}, Prometheus and Grafana {{ }}.
        braces = r"\{%" if path.parent.name == "monitoring" else r"(?<!\$)\{\{|\{%"
        assert not re.search(f"{braces}|cookiecutter", text), path
        assert not re.search(r"\n{4,}|[ \t]+$", text, re.MULTILINE), path
        assert text == "" or text.endswith("\n"), path
        match path.suffix:
            case ".toml":
                tomllib.loads(text)
            case ".yaml" | ".yml":
                yaml.safe_load(text)
            case ".json":
                json.loads(text)
    for check in (["check"], ["format", "--check"]):
        command = ["ruff", *check, "--no-cache"]
        result = subprocess.run(
            command, cwd=project.path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr

    metadata = tomllib.loads((project.path / "pyproject.toml").read_text())["project"]
    license = answers.get("license", "Proprietary")
    assert metadata.get("license") == (None if license == "Proprietary" else license)
    assert metadata["requires-python"] == f">={answers.get('minimum_python', '3.11')},<3.15"
    text = project.path / "LICENSE"
    assert (LICENSES[license] or "") in (text.read_text() if text.exists() else "")
    assert text.exists() == (LICENSES[license] is not None)

    has_example = answers.get("example_resource", "yes") == "yes"
    has_auth = answers["auth"] == "supabase"
    for words, is_there in (
        (r"/items|\bItem", has_example),
        (r"(?i:jwks|pyjwt|supabase_url|supabase auth)|UserSession|\bCaller|owner_only", has_auth),
        (r"/notes\?|\bNoteRead\b", has_example and has_auth),
        (r"data_api", has_auth or answers.get("pooler") != "pgbouncer"),
    ):
        told = [path for path in project.files() if re.search(words, path.read_text())]
        assert bool(told) == is_there, told
    other = {"supavisor": "pgbouncer.internal", "pgbouncer": "pooler.supabase.com"}
    example = (project.path / ".env.example").read_text()
    assert other[answers.get("pooler", "supavisor")] not in example


def suite(project: Project, *tests: str, **variables: str) -> None:
    """Two processes: these tests are not alone."""
    assert re.search(r"\d+ passed", project.check("pytest", "-q", "-n2", *tests, **variables))


@pytest.mark.parametrize("folder", SAME)
def test_what_is_not_run_again_depends_on_no_answer(folder: str) -> None:
    """Names apart. Otherwise it would belong to `DIFFERING`."""
    project = TEMPLATE / "{{cookiecutter.project_slug}}"
    files = set((project / folder).glob("*.py")) - {project / it for it in DIFFERING}
    assert files
    assert not [it for it in files if re.search(r"\{%|\{\{[^}]* if ", it.read_text())]


def test_the_generated_suite_passes_without_the_example(tmp_path: Path) -> None:
    project = bake(tmp_path, example_resource="no", pooler="pgbouncer", license="MIT", **LONG)
    suite(project, *DIFFERING)
    project.check("mypy")


def test_the_generated_suite_passes_with_auth(auth_service: Project) -> None:
    """What is everybody's has other settings here. Types: see test_service_auth.py."""
    suite(auth_service, *DIFFERING, "tests/auth")


def test_auth_without_the_example(tmp_path: Path) -> None:
    answers = {"example_resource": "no", "pooler": "pgbouncer", "auth": "supabase"}
    project = bake(tmp_path, **answers, **LONG)
    # What does not depend on the example has passed with it.
    names = ("caller", "dependencies", "login_role", "owned", "page")
    tests = [f"tests/auth/test_{name}.py" for name in names]
    suite(project, "tests/migrations", *tests)
    project.check("mypy")


@pytest.mark.parametrize("pooler_too", [True, False])
def test_the_suite_leaves_servers_that_run_already_as_they_were(
    service: Project, pooler_too: bool
) -> None:
    """TEST_DATABASE_URL and TEST_POOLER_URL, here with a pooler that is not as strict as ours."""
    snapshot = (
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname !~ '^pg_'"
        # A session's schema for temporary tables stays, empty, for the next session.
        " UNION SELECT nspname, '' FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'"
        " UNION SELECT datname, 'database' FROM pg_database"
    )
    with devstack(service) as stack:
        before = query(service, stack["database_url"], snapshot)
        urls = {"TEST_DATABASE_URL": stack["database_url"]}
        if pooler_too:
            urls["TEST_POOLER_URL"] = stack["pooler_url"]
        # Whose pooler it is matters to what finds the servers: not to every test once more.
        few = [
            "tests/migrations",
            "tests/pooler/test_control.py",
            "tests/pooler/test_statements.py",
        ]
        tests = ["--deselect=tests/unit"] if pooler_too else few
        told = service.check("pytest", "-q", *tests, **urls)
        assert re.search(r"\d+ passed", told)
        assert query(service, stack["database_url"], snapshot) == before


def test_types_for_the_newest_python(service: Project) -> None:
    service.check("mypy", "--python-version", PYTHONS[-1], "--cache-dir", "/dev/null")


@pytest.mark.parametrize("minimum_python", PYTHONS)
def test_the_dependencies_resolve(tmp_path: Path, minimum_python: str) -> None:
    """For each Python, whichever runs these tests: what `uv lock` does, without the interpreter."""
    project = bake(tmp_path, minimum_python=minimum_python)
    command = ["uv", "pip", "compile", "--universal", "--python-version", minimum_python]
    result = subprocess.run(
        [*command, "--quiet", "--group", "dev", "pyproject.toml"],
        cwd=project.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "sqlalchemy==2.1" in result.stdout


@pytest.mark.parametrize("which", ["service", "auth_service"])
def test_what_the_service_imports_is_declared(request: pytest.FixtureRequest, which: str) -> None:
    """What another package happens to bring may be gone with its next version."""
    service: Project = request.getfixturevalue(which)
    project = tomllib.loads((service.path / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], project["dependency-groups"]["tune"]]
    declared = {re.split(r"[\[>]", it)[0] for group in groups for it in group}
    # FastAPI's own API, the extra `asyncio` of SQLAlchemy, and `standard` of uvicorn.
    declared |= {"pydantic", "starlette", "greenlet", "uvloop", "httptools"}
    imported: set[str] = set()
    for path in (service.path / "src").rglob("*.py"):
        lines = re.findall(
            r"^ *(?:from|import) (\w+)[\w.]*(?: import\b|\n| as )", path.read_text(), re.MULTILINE
        )
        imported |= set(lines) - sys.stdlib_module_names - {service.package}
    assert "fastapi" in imported
    names = {"yaml": "pyyaml", "opentelemetry": "opentelemetry-api", "jwt": "pyjwt"}
    assert {names.get(it, it.replace("_", "-")) for it in imported} <= declared


def test_the_wheel_holds_the_service_and_nothing_else(service: Project, tmp_path: Path) -> None:
    subprocess.run(
        ["uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path)],
        cwd=service.path,
        env=environment(),
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {service.package, f"{service.package}-0.1.0.dist-info"}
