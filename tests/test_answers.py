"""Answers that would make a broken project are refused, with the reason, leaving nothing behind."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import TEMPLATE, Project, bake, environment
from cookiecutter.exceptions import FailedHookException, OutputDirExistsException
from jinja2.exceptions import UndefinedError

DISTRIBUTION = (
    "can't be a distribution's, a command's and a host's name. Write lower-case letters, digits and "
    "single hyphens, beginning with a letter: orders-api."
)
PACKAGE = (
    "can't be a package's name. Write lower-case letters, digits and single underscores, beginning "
    "with a letter: orders_api."
)
ESCAPING = (
    "has a character that would need escaping in TOML, Python or Markdown. "
    'Write one line without " \\ { } < >.'
)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"project_name": "  "}, "project_name is empty."),
        ({"description": ""}, "description is empty."),
        ({"owner": ""}, "owner is empty."),
        ({"project_name": 'The "best"'}, f"project_name {ESCAPING}"),
        ({"description": "back\\slash"}, f"description {ESCAPING}"),
        ({"description": "two\nlines"}, f"description {ESCAPING}"),
        ({"description": '"""); import os; ("""'}, f"description {ESCAPING}"),
        ({"owner": "{braces}"}, f"owner {ESCAPING}"),
        ({"owner": "<b>"}, f"owner {ESCAPING}"),
        (
            {"owner": "@acme team"},
            "owner '@acme team' begins like a name on GitHub, but is none. Write a user or a team, "
            "@acme/orders, or leave out the @.",
        ),
        ({"project_slug": "orders api"}, f"project_slug 'orders api' {DISTRIBUTION}"),
        ({"project_slug": "Orders"}, f"project_slug 'Orders' {DISTRIBUTION}"),
        ({"project_slug": "-orders"}, f"project_slug '-orders' {DISTRIBUTION}"),
        ({"project_slug": "orders--api"}, f"project_slug 'orders--api' {DISTRIBUTION}"),
        ({"project_slug": "1orders"}, f"project_slug '1orders' {DISTRIBUTION}"),
        ({"project_slug": "bestell-übung"}, f"project_slug 'bestell-übung' {DISTRIBUTION}"),
        (
            {"project_slug": "fastapi"},
            "project_slug 'fastapi' is the name of a dependency. Choose another: fastapi-service.",
        ),
        (
            {"project_slug": "pytest-asyncio", "package_name": "orders"},
            "project_slug 'pytest-asyncio' is the name of a dependency. "
            "Choose another: pytest-asyncio-service.",
        ),
        (
            {"project_name": "Test"},
            "project_slug 'test' is the name of a dependency. Choose another: test-service.",
        ),
        ({"package_name": "orders-api"}, f"package_name 'orders-api' {PACKAGE}"),
        ({"package_name": "orders.api"}, f"package_name 'orders.api' {PACKAGE}"),
        ({"package_name": ""}, f"package_name '' {PACKAGE}"),
        ({"package_name": "_orders"}, f"package_name '_orders' {PACKAGE}"),
        ({"package_name": "a" * 41}, "package_name has 41 characters. Write at most 40."),
        (
            {"package_name": "class"},
            "package_name 'class' is a keyword of Python. Choose another: class_service.",
        ),
        (
            {"package_name": "match"},
            "package_name 'match' is a keyword of Python. Choose another: match_service.",
        ),
        (
            {"package_name": "json"},
            "package_name 'json' is a module of Python's standard library. "
            "Choose another: json_service.",
        ),
        (
            {"package_name": "devstack"},
            "package_name 'devstack' is the name of a dependency. "
            "Choose another: devstack_service.",
        ),
        (
            {"package_name": "compression"},
            "package_name 'compression' is a module of Python's standard library. "
            "Choose another: compression_service.",
        ),
        (
            {"project_slug": "pgbouncer"},
            "project_slug 'pgbouncer' is the name of a dependency. "
            "Choose another: pgbouncer-service.",
        ),
    ],
    ids=str,
)
def test_a_bad_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], answers: dict[str, str], reason: str
) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path, **answers)
    told = capfd.readouterr().err
    assert told.startswith("These answers can't be used:\n")
    assert f"\n  {reason}\n" in told
    assert _left_behind(tmp_path) == []


def test_all_bad_answers_are_told_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path, project_slug="A", package_name="class", owner="")
    told = capfd.readouterr().err
    for reason in ("owner is empty", "project_slug 'A' can't", "package_name 'class' is"):
        assert reason in told


def test_the_other_answers_are_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the command that the refusal ends with: it asks again, and Enter keeps them."""
    answers = {"project_name": "Orders & $(more)", "owner": "Zoe's <b>", "pooler": "pgbouncer"}
    with pytest.raises(FailedHookException):
        bake(tmp_path, **answers)
    told = capfd.readouterr().err.splitlines()
    assert told[-2] == "To answer them again, with Enter for all others:"
    command = shlex.split(told[-1])
    assert command[:2] == ["uvx", "cookiecutter"]
    subprocess.run(
        [sys.executable, "-m", *command[1:], "--config-file", tmp_path / "cookiecutter.yaml"],
        input="\n" * 4 + "Zoe's\n" + "\n" * 5,  # the owner is the fifth question
        cwd=tmp_path,
        check=True,
        text=True,
    )
    made = tmp_path / "orders-more"
    assert "# Orders & $(more)\n" in (made / "README.md").read_text()
    assert "Owned by Zoe's." in (made / "README.md").read_text()
    assert "pgbouncer" in (made / "compose.yaml").read_text()


def test_blanks_and_a_full_stop_are_taken_away(tmp_path: Path, service: Project) -> None:
    """The formatter and Markdown would stumble over them."""
    texts = {"project_name": "Orders API", "description": "Takes orders", "owner": "@acme/orders"}
    project = bake(tmp_path, **{name: f" {text} " for name, text in texts.items()})
    ruff = [service.python, "-m", "ruff", "format", "--check", "--no-cache", "."]
    subprocess.run(ruff, cwd=project.path, check=True)
    assert "Takes orders. Owned by @acme/orders." in (project.path / "README.md").read_text()
    assert (project.path / ".github/CODEOWNERS").read_text().endswith("* @acme/orders\n")


def test_brackets_in_a_description_are_no_markup(tmp_path: Path, service: Project) -> None:
    project = bake(tmp_path, description="Takes [/all] orders")
    told = subprocess.check_output(
        [service.python, "-m", project.package, "--help"],
        env=environment(PYTHONPATH=str(project.path / "src")),
        text=True,
    )
    assert "Takes [/all] orders" in told


def test_an_old_python_is_told_so() -> None:
    """With what it can parse, and before it misses anything."""
    hooks = [TEMPLATE / "hooks" / f"{when}_gen_project.py" for when in ("pre", "post")]
    for hook in hooks:
        ast.parse(hook.read_text(), feature_version=(3, 6))
    program = (
        "import sys; del sys.stdlib_module_names;"
        "exec(open(sys.argv[1]).read().replace('{{ cookiecutter | tojson }}', '{\"_template\": \"t\"}'))"
    )
    command = [sys.executable, "-c", program, hooks[0]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("This template needs Python 3.10 or newer")


@pytest.mark.parametrize("slug", ["orders/api", "../orders", "/orders", "o" * 41, "o" * 300])
def test_a_slug_that_can_be_no_folder(tmp_path: Path, slug: str) -> None:
    """Refused before the hook: cookiecutter makes the folders first, and removes only the last."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(UndefinedError, match="project_slug must not have"):
        bake(inside, project_slug=slug)
    assert _left_behind(inside) == []
    assert list(tmp_path.iterdir()) == [inside]


def test_a_name_of_300_characters(tmp_path: Path) -> None:
    """Its folder's name is shorter."""
    assert len(bake(tmp_path, project_name="Orders " * 43).path.name) <= 40


@pytest.mark.parametrize("slug", ["", ".", ".."])
def test_a_slug_that_is_no_name(tmp_path: Path, slug: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(OutputDirExistsException):
        bake(inside, project_slug=slug)
    assert _left_behind(inside) == []


@pytest.mark.parametrize(
    "question", ["license", "minimum_python", "pooler", "example_resource", "auth"]
)
def test_a_choice_that_is_none(tmp_path: Path, question: str) -> None:
    with pytest.raises(ValueError, match=f"other provided for choice variable {question}"):
        bake(tmp_path, **{question: "other"})
    assert _left_behind(tmp_path) == []


def test_an_existing_project_is_not_touched(tmp_path: Path) -> None:
    project = bake(tmp_path)
    (project.path / "README.md").write_text("mine")
    with pytest.raises(OutputDirExistsException):
        bake(tmp_path)
    assert (project.path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("which", ["service", "auth_service"])
def test_every_dependency_is_a_name_that_is_taken(
    request: pytest.FixtureRequest, which: str
) -> None:
    """As a distribution, as what it lets one import, and as a command."""
    service: Project = request.getfixturevalue(which)
    lock = tomllib.loads((service.path / "uv.lock").read_text())
    names = {package["name"].replace("-", "_").replace(".", "_") for package in lock["package"]}
    program = "import importlib.metadata as m; print(*m.packages_distributions())"
    names |= set(service.check("python", "-c", program).split())
    commands = Path(service.python).parent.iterdir()
    names |= {path.name.replace("-", "_") for path in commands if os.access(path, os.X_OK)}
    hook = (TEMPLATE / "hooks" / "pre_gen_project.py").read_text()
    taken = set(hook.split('TAKEN = set(\n    """')[1].split('"""')[0].split())
    answers = {name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name)}
    assert answers - {"orders_api"} <= taken


def _left_behind(folder: Path) -> list[str]:
    ours = {"cookiecutter.yaml", "replay", "cookiecutters"}
    return [path.name for path in folder.iterdir() if path.name not in ours]
