"""The workflow of a generated service: linted, and its own steps run here on a generated service."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE, Project, bake
from podman import Podman
from workflow import run_workflow

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
WORKFLOW = Path(".github/workflows/ci.yml")

# What needs GitHub, or an engine that runs containers together. Nothing else may be left out.
LEFT_TO_GITHUB = {
    "image: anchore/sbom-action",
    "image: anchore/scan-action",
}
NEEDS_COMPOSE = {
    "pooler: docker compose up --wait pooler",
    "pooler: password=$(sed -n 's/^SERVICE_PASSWORD=//p' .env)",
    "pooler: docker compose up --build --wait",
    "pooler: curl --fail http://127.0.0.1:8000/readyz",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = bake(tmp_path_factory.mktemp("repository"))
    git(project, "init", "--quiet", "--initial-branch=main")
    project.check("python", "--version")  # makes uv.lock
    commit(project)
    git(project, "tag", "generated")
    return project


@pytest.fixture
def checkout(repository: Project) -> Project:
    """A service with a commit, as GitHub checks it out; its environment is there already."""
    git(repository, "reset", "--quiet", "--hard", "generated")
    git(repository, "clean", "--quiet", "-d", "--force")
    return repository


def git(project: Project, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=project.path, check=True, capture_output=True, text=True
    ).stdout


def commit(project: Project) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=A change")


def jobs(project: Project) -> set[str]:
    return set(yaml.safe_load((project.path / WORKFLOW).read_text())["jobs"])


def test_a_service_passes_its_own_workflow(checkout: Project) -> None:
    run = run_workflow(
        checkout.path / WORKFLOW,
        "push",
        jobs(checkout) - {"image"},
        python=PYTHON,
        skip=NEEDS_COMPOSE,
        PYTEST_XDIST_AUTO_NUM_WORKERS="1",  # a core: these tests are not alone
    )
    others = {left for left in run.left_out if not left.startswith("test: Python 3.")}
    assert others == NEEDS_COMPOSE
    assert {"checks: uv run poe check", "test: uv run poe test"} <= set(run.ran)
    assert git(checkout, "status", "--porcelain") == "?? requirements.txt\n"  # of the audit


@pytest.mark.image
def test_a_service_passes_the_job_of_its_image(checkout: Project, tmp_path: Path) -> None:
    with Podman() as podman:
        run = run_workflow(
            checkout.path / WORKFLOW,
            "push",
            {"image"},
            python=PYTHON,
            skip=set(),
            PATH=podman.as_docker(tmp_path),
        )
    assert set(run.left_out) == LEFT_TO_GITHUB
    assert len(run.ran) == 2


REVISION = '''"""{message}

Revision ID: {revision}
Revises: {before}
"""
{comment}
from alembic import op

revision: str = "{revision}"
down_revision: str | None = "{before}"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    {upgrade}


def downgrade() -> None:
    pass
'''
DROPS = 'op.drop_column("items", "description")'


def revise(project: Project, number: int, upgrade: str, comment: str = "") -> None:
    name = project.path / "migrations" / "versions" / f"{number:04}_change.py"
    text = REVISION.format(
        message="change",
        revision=f"{number:04}",
        before=f"{number - 1:04}",
        upgrade=upgrade,
        comment=comment,
    )
    name.write_text(text)


def lint_migrations(project: Project) -> None:
    run = run_workflow(
        project.path / WORKFLOW, "pull_request", {"migrations"}, python=PYTHON, skip=set()
    )
    assert run.ran == ["migrations: uv run poe lint-migrations --since HEAD^"]


def test_only_new_revisions_are_linted(checkout: Project) -> None:
    """A merged revision can't be changed any more, whatever squawk thinks of it."""
    revise(checkout, 2, DROPS)
    commit(checkout)
    with pytest.raises(AssertionError, match="ban-drop-column"):
        lint_migrations(checkout)
    revise(checkout, 3, 'op.execute("ALTER TABLE items ADD COLUMN price bigint")')
    commit(checkout)
    lint_migrations(checkout)


def test_an_index_is_built_as_documented(checkout: Project) -> None:
    text = (checkout.path / "CONTRIBUTING.md").read_text()
    [body] = re.findall(r"```python\ndef upgrade\(\) -> None:\n(.*?)```", text, re.DOTALL)
    revise(checkout, 2, body.strip())
    commit(checkout)
    lint_migrations(checkout)
    revise(checkout, 3, 'op.create_index("items_description", "items", ["description"])')
    commit(checkout)
    with pytest.raises(AssertionError, match="require-concurrent-index-creation"):
        lint_migrations(checkout)


def test_what_a_revision_means_all_the_same(checkout: Project) -> None:
    revise(checkout, 2, DROPS, comment="# squawk-ignore-file ban-drop-column")
    commit(checkout)
    lint_migrations(checkout)


@pytest.mark.parametrize(
    ("upgrade", "since", "reason"),
    [
        ("", "nowhere", "There is no commit 'nowhere' to compare with"),
        (
            'op.get_bind().exec_driver_sql("SELECT 1").scalar()',
            "HEAD^",
            "0002_change.py can't be printed as SQL",
        ),
    ],
)
def test_what_cannot_be_linted_says_why(
    checkout: Project, upgrade: str, since: str, reason: str
) -> None:
    revise(checkout, 2, upgrade or "pass")
    commit(checkout)
    result = checkout.run("poe", "lint-migrations", "--since", since)
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("path", "reason"), [("", "git is not installed"), (os.environ["PATH"], "needs `git init`")]
)
def test_without_git_the_lint_says_what_it_needs(service: Project, path: str, reason: str) -> None:
    command = [service.python, "migrations/lint.py"]
    result = subprocess.run(
        command, cwd=service.path, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_the_templates_workflows_are_linted() -> None:
    lint_workflows(TEMPLATE)


def test_the_generated_workflows_are_linted(service: Project) -> None:
    lint_workflows(service.path)


def lint_workflows(folder: Path) -> None:
    """actionlint for what is wrong, zizmor for what is dangerous: permissions, pins, injections."""
    workflows = sorted((folder / ".github" / "workflows").glob("*.yml"))
    files = [*workflows, folder / ".github" / "dependabot.yml"]
    for command in (["actionlint", *workflows], ["zizmor", "--offline", "--pedantic", *files]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_scripts_are_linted(tmp_path: Path) -> None:
    """Those in workflows actionlint hands to shellcheck by itself."""
    project = bake(tmp_path, pooler="pgbouncer")
    scripts = [*project.path.rglob("*.sh"), TEMPLATE / ".ci/run", TEMPLATE / ".ci/base-images"]
    assert project.path / "compose" / "pgbouncer.sh" in scripts
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_template_and_service_use_the_same_actions(service: Project) -> None:
    """What Dependabot raises in the template's workflow has to be raised in the generated one."""
    pinned = {}
    for folder in (TEMPLATE, service.path):
        for file in (folder / ".github" / "workflows").glob("*.yml"):
            for action, pin in re.findall(r"uses: (\S+)@(.+)", file.read_text()):
                assert re.fullmatch(r"[0-9a-f]{40} # v[\d.]+", pin), file
                assert pinned.setdefault(action, pin) == pin, action


def test_hooks_before_a_commit_pass(checkout: Project) -> None:
    assert "Failed" not in checkout.check("prek", "run", "--all-files")
    (checkout.path / "src" / checkout.package / "bad.py").write_text("import os\n")
    git(checkout, "add", "--all")
    assert checkout.run("prek", "run").returncode != 0


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.dependabot", ".github/dependabot.yml"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
    ],
)
def test_files_for_others_keep_to_their_schema(service: Project, schema: str, file: str) -> None:
    command = ["check-jsonschema", "--builtin-schema", schema, file]
    result = subprocess.run(command, cwd=service.path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_dev_container_is_json(service: Project) -> None:
    text = (service.path / ".devcontainer" / "devcontainer.json").read_text()
    assert json.loads(text)["name"] == "orders-api"
