"""A service that exists gets what the template learns later, and keeps what its team changed.

cruft reads templates from git. Most tests give it a repository made from the files of the working tree,
so that what is tested is what is there, committed or not, whatever part of the history a clone has.
What `docs/updating.md` says is done as it says.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import arrow
import pytest
from conftest import TEMPLATE, Project, Service, bake, environment, run_copied

GENERATED = Path("{{cookiecutter.project_slug}}")
PACKAGE = GENERATED / "src" / "{{cookiecutter.package_name}}"
VERSION = json.loads((TEMPLATE / "cookiecutter.json").read_text())["__template_version"]

ANSWERS = [
    {"owner": "Größe & Söhne"},
    {"example_resource": "no", "license": "MIT", "pooler": "pgbouncer"},
]


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git and cookiecutter without the configuration of whoever runs the tests."""
    git, cookiecutter = tmp_path / "gitconfig", tmp_path / "empty.yaml"
    # safe: in a container the checkout may belong to somebody else.
    git.write_text("[user]\nname = Team\nemail = team@example.com\n[safe]\ndirectory = *\n")
    cookiecutter.write_text("{}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(git))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("COOKIECUTTER_CONFIG", str(cookiecutter))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"git {' '.join(arguments)}: {result.stderr}"
    return result.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def cruft(folder: Path, *arguments: str, status: int = 0, typed: str = "") -> str:
    """Run a command of cruft, as `uvx cruft` does; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "cruft", *arguments],
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def put_working_tree(repository: Path) -> str:
    """Commit the files of the working tree to a repository, in place of what it has."""
    for name in git(repository, "ls-files", "-z").split("\0")[:-1]:
        (repository / name).unlink()
    found = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in set(found.split("\0")[:-1]):
        if (TEMPLATE / name).exists():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, repository / name)
    if git(repository, "status", "--porcelain"):
        commit(repository, "the working tree")
    return git(repository, "rev-parse", "HEAD").strip()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A repository with the working tree's files as its only commit."""
    repository = tmp_path / "template"
    repository.mkdir()
    git(repository, "init", "--quiet")
    put_working_tree(repository)
    return repository


def create(template: Path, *options: str, **answers: str) -> Project:
    """What `cruft create` makes, committed as its team would do."""
    folder = template.parent / "created"
    folder.mkdir()
    given = ["--extra-context", json.dumps(answers), "--output-dir", str(folder)]
    cruft(folder, "create", str(template), "--no-input", *given, *options)
    [path] = folder.iterdir()
    git(path, "init", "--quiet")
    commit(path, "as it was generated")
    return Project(path, answers.get("package_name", "orders_api"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path}: {old!r} is there {text.count(old)} times"
    path.write_text(text.replace(old, new))


def change_template(template: Path) -> None:
    """What may come to a template within a year, in one commit."""
    questions = template / "cookiecutter.json"
    edit(questions, f'"__template_version": "{VERSION}"', '"__template_version": "9.9.9"')
    edit(questions, '"pooler": [', '"region": "eu",\n  "pooler": [')
    edit(template / PACKAGE / "web/health.py", "READINESS_TIMEOUT = 2\n", "READINESS_TIMEOUT = 1\n")
    (template / PACKAGE / "items/new.py").write_text('"""Comes with the example only."""\n')
    (template / GENERATED / "tests/unit/test_new.py").write_text(
        "from {{ cookiecutter.package_name }}.web.health import READINESS_TIMEOUT\n\n\n"
        "def test_the_change_has_come() -> None:\n    assert READINESS_TIMEOUT == 1\n"
    )
    script = template / GENERATED / "devstack/new.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (template / GENERATED / "tests/pooler/test_tls.py").unlink()
    with (template / GENERATED / "tests/pooler/test_schema_change.py").open("a") as file:
        file.write("# A change of what the team has deleted.\n")
    commit(template, "a year later")


def change_project(project: Project) -> set[str]:
    """What a team may do; return the files that `cruft diff` has to show."""
    package = project.path / "src" / project.package
    edit(
        package / "settings.py",
        "\n\ndef load_settings",
        '\n    orders_per_page: PositiveInt = 50\n    """Orders in one answer."""\n\n\ndef load_settings',
    )
    edit(
        project.path / ".env.example",
        "\n#LOG_LEVEL=info\n",
        "\n#LOG_LEVEL=info\n\n# Orders in one answer.\n#ORDERS_PER_PAGE=50\n",
    )
    edit(
        package / "web/health.py", '@router.get("/livez")', '@router.get("/livez", summary="Alive")'
    )
    readme = project.path / "README.md"
    edit(readme, "# Orders API\n", "# Orders API\n\nAsk #orders before you deploy.\n")
    # A row in the table of variables, which the README of an older template does not have.
    row = "| `ORDERS_PER_PAGE` | `50` | Orders in one answer |\n"
    readme.write_text(re.sub(r"(?m)^(\| `LOG_FORMAT` .*\n)", rf"\1{row}", readme.read_text()))
    (package / "orders").mkdir()
    (package / "orders/__init__.py").write_text(
        f'"""A feature of its own."""\n\nfrom {project.package}.settings import Settings\n\n'
        '__all__ = ["Settings"]\n'
    )
    (project.path / "tests/pooler/test_schema_change.py").unlink()
    source = f"src/{project.package}"
    return {"README.md", ".env.example", f"{source}/settings.py", f"{source}/web/health.py"}


def kept(project: Project) -> None:
    """What `change_project` did is there."""
    package = project.path / "src" / project.package
    assert "orders_per_page: PositiveInt = 50" in (package / "settings.py").read_text()
    assert "#ORDERS_PER_PAGE=50" in (project.path / ".env.example").read_text()
    assert 'summary="Alive"' in (package / "web/health.py").read_text()
    assert "Ask #orders" in (project.path / "README.md").read_text()
    assert f"from {project.package}." in (package / "orders/__init__.py").read_text()
    assert not (project.path / "tests/pooler/test_schema_change.py").exists()


def differing(project: Project) -> set[str]:
    """The files in which a project differs from the template that it was made from."""
    told = cruft(project.path, "diff")
    return set(re.findall(r"^diff --git upstream-template-old/(\S+)", told, re.MULTILINE))


def tree(project: Project) -> dict[str, tuple[int, bytes]]:
    """What a team would commit, apart from what cruft keeps."""
    files = {path.relative_to(project.path): path for path in project.files()}
    return {
        str(name): (path.stat().st_mode & 0o111, path.read_bytes())
        for name, path in files.items()
        if name.parts[0] not in {".git", ".cruft.json"}
    }


def same(one: Project, other: Project) -> None:
    left, right = tree(one), tree(other)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def update(project: Project, *options: str) -> None:
    """Update without a conflict. (cruft itself ends with 0 when there is one.)"""
    cruft(project.path, "update", "--skip-apply-ask", *options)
    assert git(project.path, "diff", "--name-only", "--diff-filter=U") == ""
    assert git(project.path, "ls-files", "--others", "*.rej", "*.orig") == ""
    if git(project.path, "status", "--porcelain"):
        commit(project.path, "the template's change")


def gets_what_comes_later(project: Project, template: Path) -> None:
    """A change of the template arrives, whole and without a conflict."""
    change_template(template)
    cruft(project.path, "check", status=1)
    update(project)
    answers = json.loads((project.path / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert answers["region"] == "eu"
    metadata = tomllib.loads((project.path / "pyproject.toml").read_text())
    assert metadata["tool"]["fastapi-pooler-template"] == {"version": "9.9.9"}
    assert "version 9.9.9 of" in (project.path / "README.md").read_text()
    package = project.path / "src" / project.package
    assert "READINESS_TIMEOUT = 1\n" in (package / "web/health.py").read_text()
    assert f"from {project.package}." in (project.path / "tests/unit/test_new.py").read_text()
    assert (project.path / "devstack/new.sh").stat().st_mode & 0o111
    assert not (project.path / "tests/pooler/test_tls.py").exists()
    assert (package / "items").exists() == (answers["example_resource"] == "yes")
    assert (package / "items/new.py").exists() == (answers["example_resource"] == "yes")
    assert [path.name for path in package.parent.iterdir()] == [project.package]


def passes(service: Service, project: Project, *tests: str) -> None:
    """Lint, types and tests, with the environment of another project."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in ([*ruff, "check"], [*ruff, "format", "--check"], [service.python, "-m", "mypy"]):
        result = subprocess.run(
            command, cwd=project.path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
    result = run_copied(service, project, "-q", *tests)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr
    assert re.search(r"\d+ passed", result.stdout)


def documented(heading: str, language: str = "sh") -> str:
    """The first block of that language below a heading of `docs/updating.md`."""
    _, found, section = (TEMPLATE / "docs/updating.md").read_text().partition(f"\n## {heading}\n")
    assert found, f"docs/updating.md has no section {heading!r}"
    block = re.search(
        rf"^```{language}\n(.*?)^```", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL
    )
    assert block, f"{heading!r} of docs/updating.md has no block of {language}"
    return block[1]


def follow(project: Project, heading: str) -> subprocess.CompletedProcess[str]:
    """Run a block of `docs/updating.md` in a project, as its reader does."""
    script = documented(heading).replace("uvx cruft", f"'{sys.executable}' -m cruft")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail\n{script}"],
        cwd=project.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_an_update_brings_the_change_and_keeps_the_teams(
    template: Path, service: Service, answers: dict[str, str]
) -> None:
    project = create(template, **answers)
    assert cruft(project.path, "diff") == ""
    changed = change_project(project)
    with (project.path / "README.md").open("a") as file:  # not only in the middle
        file.write("\n## On call\n\nThe platform team.\n")
    commit(project.path, "a team's work")
    assert differing(project) == changed

    cruft(project.path, "check")
    gets_what_comes_later(project, template)
    cruft(project.path, "check")
    assert differing(project) == changed
    kept(project)
    if "example_resource" not in answers:  # without it, see the test that deletes it
        passes(service, project, "tests/unit")


def test_a_service_of_an_older_template_can_be_updated(tmp_path: Path) -> None:
    """From the last release, or before there is one from the first commit, to the working tree."""
    assert git(TEMPLATE, "rev-parse", "--is-shallow-repository") == "false\n", (
        "This clone lacks the older commits. Fetch them with `git fetch --unshallow --tags`; "
        "in GitHub Actions, give actions/checkout `fetch-depth: 0`."
    )
    template = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(TEMPLATE), str(template))
    git(template, "switch", "--quiet", "-C", "main")  # a pull request's checkout is on no branch
    releases = git(
        template, "tag", "--merged=HEAD", "--sort=-version:refname", "--list", "v*"
    ).split()
    commits = git(template, "rev-list", "--first-parent", "--reverse", "HEAD", "--", str(GENERATED))
    older = (releases or commits.split())[0]

    project = create(template, "--checkout", older, **ANSWERS[0])
    changed = change_project(project)
    commit(project.path, "a team's work")
    cruft(project.path, "check", "--checkout", older)
    newest = put_working_tree(template)
    update(project)
    cruft(project.path, "check")
    assert json.loads((project.path / ".cruft.json").read_text())["commit"] == newest
    kept(project)
    assert differing(project) == changed


@pytest.mark.parametrize("tagged", [True, False])
def test_a_service_made_without_cruft_is_linked_later(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagged: bool
) -> None:
    """With the version that its pyproject.toml says, and the answers typed again."""
    (tmp_path / "baked").mkdir()
    project = bake(tmp_path / "baked")
    changed = change_project(project)
    git(project.path, "init", "--quiet")
    commit(project.path, "a team's work, without cruft")
    metadata = tomllib.loads((project.path / "pyproject.toml").read_text())
    release = f"v{metadata['tool']['fastapi-pooler-template']['version']}"
    monkeypatch.setenv("GIT_COMMITTER_DATE", str(arrow.utcnow().shift(minutes=1)))
    (template / "later").touch()
    commit(template, "a commit after the release")
    if tagged:
        git(template, "tag", release, "HEAD^")
    else:
        document = (TEMPLATE / "docs/updating.md").read_text()
        [line] = re.findall("^git -C ../template (log .*)$", document, re.MULTILINE)
        find = ["bash", "-c", f"git -C '{template}' {line}"]
        release = subprocess.check_output(find, cwd=project.path, text=True).strip()

    cruft(project.path, "link", str(template), "--checkout", release, typed="\n" * 20)
    commit(project.path, "linked")
    assert differing(project) == changed
    gets_what_comes_later(project, template)
    kept(project)


@pytest.mark.parametrize("git_has_the_original", [True, False])
def test_a_conflict_is_where_the_document_says(template: Path, git_has_the_original: bool) -> None:
    """cruft ends with 0 and "Good work!" when there are conflicts, too."""
    project = create(template)
    health = project.path / "src/orders_api/web/health.py"
    line = health.read_text().splitlines().index("READINESS_TIMEOUT = 2") + 1
    edit(health, "READINESS_TIMEOUT = 2\n", "READINESS_TIMEOUT = 9\n")
    if not git_has_the_original:
        shutil.rmtree(project.path / ".git")
        git(project.path, "init", "--quiet")
    commit(project.path, "a team's work")
    change_template(template)
    assert "Good work!" in cruft(project.path, "update", "--skip-apply-ask")
    told = follow(project, "Conflicts").stdout
    if git_has_the_original:
        assert f"web/health.py:{line}: leftover conflict marker" in told
        assert ".rej" not in told
    else:
        assert told == "src/orders_api/web/health.py.rej\n"
        assert "+READINESS_TIMEOUT = 1" in (project.path / told.strip()).read_text()
    assert (project.path / "tests/unit/test_new.py").exists()


def test_what_is_skipped_stays_as_it_is(template: Path) -> None:
    project = create(template)
    with (project.path / "pyproject.toml").open("a") as file:
        file.write("\n" + documented("Conflicts", "toml"))
    commit(project.path, "skip")
    before = tree(project)
    change_template(template)
    update(project)
    after = tree(project)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {
        "pyproject.toml",
        "src/orders_api/web/health.py",
        "tests/pooler/test_schema_change.py",
        "tests/pooler/test_tls.py",
    }


@pytest.mark.parametrize(
    ("answers", "new"),
    [
        (ANSWERS[1], {"example_resource": "yes"}),
        (
            ANSWERS[0],
            {
                "license": "Apache-2.0",
                "minimum_python": "3.13",
                "pooler": "pgbouncer",
                "owner": "Å",
            },
        ),
    ],
    ids=["example", "others"],
)
def test_an_answer_is_changed_later(
    template: Path, tmp_path: Path, answers: dict[str, str], new: dict[str, str]
) -> None:
    project = create(template, **answers)
    update(project, "--variables-to-update", json.dumps(new))
    (tmp_path / "baked").mkdir()
    same(project, bake(tmp_path / "baked", **answers | new))
    assert differing(project) == set()


def test_the_name_of_the_service_is_changed_as_documented(template: Path, tmp_path: Path) -> None:
    project = create(template)
    followed = follow(project, "Change an answer")
    assert followed.returncode == 0, followed.stderr
    commit(project.path, "another name")
    new = {"project_name": "Shop orders", "project_slug": "shop-orders"}
    (tmp_path / "baked").mkdir()
    same(project, bake(tmp_path / "baked", package_name="orders_api", **new))
    gets_what_comes_later(project, template)


def test_the_example_is_deleted_as_documented(
    template: Path, tmp_path: Path, service: Service
) -> None:
    """What is left is what `example_resource=no` generates, and works."""
    project = create(template)
    changed = change_project(project)
    commit(project.path, "a team's work")
    followed = follow(project, "Delete the example")
    assert followed.returncode == 0, followed.stderr
    commit(project.path, "no example")
    kept(project)
    (tmp_path / "baked").mkdir()
    other = bake(tmp_path / "baked", example_resource="no")
    change_project(other)
    same(project, other)
    assert differing(project) == changed

    gets_what_comes_later(project, template)
    passes(service, project, "tests/unit")


def test_the_package_is_renamed_as_documented(
    template: Path, tmp_path: Path, service: Service
) -> None:
    """What comes out is what `package_name=shop_orders` generates, and works."""
    project = create(template)
    change_project(project)
    commit(project.path, "a team's work")
    followed = follow(project, "Rename the package")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    project = Project(project.path, "shop_orders")
    # As a file that git ignores may stay there.
    assert [path for path in (project.path / "src/orders_api").rglob("*") if path.is_file()] == []
    shutil.rmtree(project.path / "src/orders_api", ignore_errors=True)
    commit(project.path, "another package")
    kept(project)
    (tmp_path / "baked").mkdir()
    other = bake(tmp_path / "baked", package_name="shop_orders")
    changed = change_project(other)
    same(project, other)
    assert differing(project) == changed

    gets_what_comes_later(project, template)
    passes(service, project, "tests/unit")


def test_the_version_is_one(tmp_path: Path) -> None:
    """Of the template, of its changelog, and of what was generated."""
    metadata = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())
    assert metadata["project"]["version"] == VERSION
    newest = re.search(r"^## (.*)$", (TEMPLATE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1].removeprefix("Unreleased: ").split()[0] == VERSION
    project = bake(tmp_path)
    made = tomllib.loads((project.path / "pyproject.toml").read_text())
    assert made["tool"][metadata["project"]["name"]] == {"version": VERSION}
    assert (
        f"version {VERSION} of {metadata['project']['name']}"
        in (project.path / "README.md").read_text()
    )


@pytest.mark.parametrize("license", ["MIT", "Apache-2.0"])
def test_what_is_generated_depends_on_no_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, license: str
) -> None:
    """cruft generates the old version again: a year would differ from the project's own, in every
    `cruft diff` after New Year, and an update of that file would conflict."""
    trees = []
    for year in ("2026", "2031"):
        moment = arrow.get(f"{year}-01-01T00:00:00")
        monkeypatch.setattr("arrow.now", lambda *_, moment=moment: moment)
        (tmp_path / year).mkdir()
        trees.append(tree(bake(tmp_path / year, license=license)))
    assert trees[0] == trees[1]
