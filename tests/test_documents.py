"""Documents are true where that is cheap to see: their links, anchors, files and commands exist.

Links to other sites need a network, and are left to a job that has one.
"""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
from conftest import TEMPLATE, Project, bake, environment

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture(scope="module")
def without_example(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("documents")
    return bake(folder, example_resource="no", pooler="pgbouncer", license="MIT")


@pytest.fixture(params=["template", "service", "without_example"])
def root(request: pytest.FixtureRequest) -> Path:
    """A folder whose documents are looked at."""
    if request.param == "template":
        return TEMPLATE
    project: Project = request.getfixturevalue(request.param)
    return project.path


def documents(root: Path) -> list[Path]:
    """A service's, or the template's own without those that are still to be rendered."""
    if root != TEMPLATE:
        found = [path for path in Project(root, "").files() if path.suffix == ".md"]
    else:
        command = ["git", "ls-files", "*.md"]
        tracked = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        found = [root / name for name in tracked.stdout.splitlines() if "{{" not in name]
    assert root / "README.md" in found
    return found


def commands(document: Path) -> list[list[str]]:
    """The words of each command in a document's blocks of `sh`, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").replace("&&", "\n").splitlines()
    return [words for line in lines if (words := re.sub(r"(^|\s)#.*", "", line).split())]


def test_every_link_and_anchor_resolves(root: Path) -> None:
    lychee = SCRIPTS / "lychee"
    assert lychee.exists(), "lychee is missing: run these tests with `uv run pytest`"
    command = [lychee, "--offline", "--include-fragments", "--no-progress", "--cache=false"]
    result = subprocess.run(
        [*command, *documents(root)], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_commands_name_exists(root: Path, service: Project) -> None:
    """Programs that `uv run` starts, tasks of `poe`, and files. (The template's documents tell of a
    service's, too.)"""
    metadata = tomllib.loads((service.path / "pyproject.toml").read_text())
    tasks = metadata["tool"].get("poe", {}).get("tasks", {})
    programs = [SCRIPTS, service.path / ".venv" / "bin"]
    for document in documents(root):
        for words in commands(document):
            told = f"{document.relative_to(root)}: {' '.join(words)}"
            if words[:2] == ["uv", "run"] and not words[2].startswith("-"):
                assert any((folder / words[2]).exists() for folder in programs), told
            if "poe" in words[:-1]:
                assert words[words.index("poe") + 1] in tasks, told
            for word in words:
                if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)*(\.(py|toml|yaml|md|sh)|/)", word):
                    assert any((folder / word).exists() for folder in (root, service.path)), told


def test_variables_and_files_that_a_service_documents_exist(
    service: Project, without_example: Project
) -> None:
    for project in (service, without_example):
        known = (project.path / ".env.example").read_text()
        rooms = (project.path, project.path / "src" / project.package, TEMPLATE)
        for document in documents(project.path):
            text = document.read_text()
            for name in re.findall(r"\b(?:DATABASE|LOG|POOLER|REQUESTS|TEST)_[A-Z_]+", text):
                assert name in known, f"{document}: {name}"
            for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.\w+)`", text):
                assert any((room / name).exists() for room in rooms), f"{document}: {name}"


def test_parameters_of_a_connection_string_are_taken_as_documented(service: Project) -> None:
    """Each of the table, and the table has each that the code knows."""
    program = (
        "import re, sys\n"
        f"from {service.package}.database.url import _PARAMETERS, _SYNONYMS, parse_url\n"
        "rows = re.findall(r'^\\| (`\\S+=.*) \\| (obeyed|dropped|refused) \\|', sys.stdin.read(), re.M)\n"
        "tried = [(it, told) for cell, told in rows for it in re.findall(r'`([^`]+)`', cell)]\n"
        "for parameter, told in tried:\n"
        "    try:\n"
        "        dropped = parse_url(f'postgresql://u:p@h/d?{parameter}').ignored\n"
        "        found = 'dropped' if dropped else 'obeyed'\n"
        "    except ValueError as error:\n"
        "        found = 'obeyed' if 'sslcert, sslkey' in str(error) else 'refused'\n"
        "    assert found == told, (parameter, found)\n"
        "names = {parameter.partition('=')[0] for parameter, _ in tried}\n"
        "assert names == {*_PARAMETERS, *_SYNONYMS}, names ^ {*_PARAMETERS, *_SYNONYMS}\n"
    )
    text = (TEMPLATE / "docs" / "connection-strings.md").read_text()
    result = subprocess.run(
        [service.python, "-c", program], input=text, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# Each block of a recipe stands alone beside the second resource's: a file of routes for each.
WRITE_BLOCKS = """
from pathlib import Path
from tests.documents import README, RECIPES, ROUTES, blocks, files

routes = next(path for path in files() if path.endswith("/routes.py"))
base = "\\n\\n".join(code for path, code in blocks(ROUTES) if path == routes)
alone = [code for page in (RECIPES, README) for path, code in blocks(page) if path == routes]
written = files() | {routes: base}
for number, code in enumerate(alone):
    written[routes.replace(".py", f"_{number}.py")] = f"{base}\\n\\n{code}"
for path, code in written.items():
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(code)
"""


def test_documented_code_passes_the_checks_of_a_service(service: Project, copied: Project) -> None:
    """Whoever copies a block has nothing to correct, and no import to look for."""
    checks = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]
    for arguments in (["-c", WRITE_BLOCKS], *(["-m", *check] for check in checks)):
        result = subprocess.run(
            [service.python, *arguments],
            cwd=copied.path,
            env=environment(PYTHONPATH="src"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert (copied.path / "src" / copied.package / "books" / "routes_9.py").exists()


def test_no_document_tells_of_a_machine(root: Path) -> None:
    for document in documents(root):
        text = document.read_text()
        assert str(TEMPLATE) not in text, document
        found = re.search(r"(?<![\w.])/(home|Users|root|work)/\S+", text)
        assert found is None, f"{document}: {found}"
