"""Run a workflow of GitHub Actions here: what its file says, step by step, with nothing repeated.

    uv run tests/workflow.py FOLDER JOB...

It knows as much of the language as our workflows use, and refuses what it does not know. An action
(`uses:`) is not run: what one does beforehand (a checkout, uv) is there already, and the others are
returned by name, for a test to say which it leaves to GitHub.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from conftest import environment

# What the machine that runs the steps has already.
PREPARED = {"actions/checkout", "astral-sh/setup-uv"}


@dataclass
class Run:
    """What became of a workflow."""

    ran: list[str] = field(default_factory=list)
    """`job: command` of each step that was run, in order."""
    left_out: list[str] = field(default_factory=list)
    """`job: name` of each step that was not."""


def run_workflow(
    file: Path, event: str, jobs: set[str], *, python: str, skip: set[str], **variables: str
) -> Run:
    """Run those of `jobs` that `event` starts.

    Args:
        file: the workflow, in `.github/workflows` of a checkout.
        event: `push`, `pull_request` or `schedule`.
        jobs: what the file calls them.
        python: of a matrix with `python` in it, the only value that is run.
        skip: commands that can't be run here, each as `job: first line`.
        variables: for every step's environment.

    Raises:
        AssertionError: a step failed; with what it printed.
        NotImplementedError: the workflow says something that this does not know.
    """
    workflow = yaml.safe_load(file.read_text())
    if unknown := jobs - workflow["jobs"].keys():
        raise NotImplementedError(f"{file} has no job {', '.join(unknown)}")
    run = Run()
    for name, job in workflow["jobs"].items():
        known = {"name", "if", "runs-on", "timeout-minutes", "strategy", "env", "steps"}
        if unknown := job.keys() - known:
            raise NotImplementedError(f"{name}: {unknown}")
        if name not in jobs or not _applies(job, event):
            continue
        for values in _matrix(job):
            if values.get("python", python) != python:
                run.left_out.append(f"{name}: Python {values['python']}")
                continue
            given = workflow.get("env", {}) | job.get("env", {})
            own = {key: _fill(str(value), values) for key, value in given.items()}
            for step in job["steps"]:
                _step(run, name, step, event, values, variables | own, file.parents[2], skip)
    return run


def _step(
    run: Run,
    job: str,
    step: dict[str, Any],
    event: str,
    values: dict[str, str],
    variables: dict[str, str],
    folder: Path,
    skip: set[str],
) -> None:
    if unknown := step.keys() - {"name", "if", "uses", "with", "run", "env"}:
        raise NotImplementedError(f"{job}: {unknown}")
    if not _applies(step, event):
        return
    if "uses" in step:
        action = step["uses"].split("@")[0]
        if action not in PREPARED:
            run.left_out.append(f"{job}: {action}")
        return
    script = _fill(step["run"], values)
    title = f"{job}: {script.splitlines()[0]}"
    if title in skip:
        run.left_out.append(title)
        return
    own = {key: _fill(str(value), values) for key, value in step.get("env", {}).items()}
    result = subprocess.run(
        # As GitHub does.
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(**{"CI": "true", **variables, **own}),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, f"{title}:\n{output[-8000:]}"
    run.ran.append(title)


def _applies(part: dict[str, Any], event: str) -> bool:
    condition = part.get("if")
    if condition is None:
        return True
    if condition == "failure()":
        return False  # a step that fails ends the run here
    found = re.fullmatch(r"github\.event_name (==|!=) '(\w+)'", condition)
    if found is None:
        raise NotImplementedError(f"if: {condition}")
    return (found[2] == event) == (found[1] == "==")


def _matrix(job: dict[str, Any]) -> Iterator[dict[str, str]]:
    matrix = job.get("strategy", {}).get("matrix", {})
    for values in product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _fill(text: str, values: dict[str, str]) -> str:
    """Put in the values of the matrix."""
    for key, value in values.items():
        text = text.replace(f"${{{{ matrix.{key} }}}}", value)
    if "${{" in text:
        raise NotImplementedError(text)
    return text


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    workflow = Path(folder, ".github", "workflows", "ci.yml")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(run_workflow(workflow, "push", set(names), python=version, skip=set()))
