"""Lint the SQL of the revisions that are not merged yet, with squawk: `uv run poe lint-migrations`.

squawk knows which statements lock a table for long, or break replicas that still run the code before.
Revisions that are merged are left alone: they have run somewhere, and can't be changed any more. What
was looked at and is meant goes into a line of the revision: `# squawk-ignore-file ban-drop-column`.
"""

import argparse
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.command import upgrade
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

ROOT = Path(__file__).parents[1]


def new_revisions(since: str) -> list[Script]:
    """The revisions whose files the commit `since` does not have, oldest first."""
    command = ["git", "ls-tree", "-r", "--name-only", since, "migrations/versions"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("git is not installed: it knows which revisions are new.") from None
    if listed.returncode != 0:
        raise SystemExit(
            f"There is no commit {since!r} to compare with: fetch it, or name another with "
            "--since: HEAD, for what is not committed. A new folder needs `git init` and a first "
            f"commit. (git: {listed.stderr.strip()})"
        )
    merged = {ROOT / name for name in listed.stdout.splitlines()}
    scripts = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
    revisions = reversed(list(scripts.walk_revisions()))
    return [revision for revision in revisions if Path(revision.path) not in merged]


def as_sql(revision: Script) -> str:
    """What the revision would do, in front of it the rules that it asks to be left out."""
    printed = StringIO()
    before = f"{revision.down_revision}:" if revision.down_revision else ""
    config = Config(toml_file=ROOT / "pyproject.toml", output_buffer=printed)
    try:
        upgrade(config, before + revision.revision, sql=True)
    except Exception as error:
        raise SystemExit(
            f"{Path(revision.path).name} can't be printed as SQL: {error}. What it reads from the "
            "database belongs behind `if not op.get_context().as_sql`."
        ) from error
    text = Path(revision.path).read_text()
    ignored = re.findall(r"^# (squawk-ignore-file .+)$", text, re.MULTILINE)
    return "\n".join([*(f"-- {rules}" for rules in ignored), printed.getvalue()])


def main() -> int:
    parser = argparse.ArgumentParser(description="Lint the SQL of revisions that are not merged.")
    parser.add_argument("--since", default="origin/main", help="The commit that has the others.")
    since: str = parser.parse_args().since
    with TemporaryDirectory() as folder:
        files = []
        for revision in new_revisions(since):
            if not revision.is_merge_point:  # it changes nothing
                file = Path(folder, Path(revision.path).with_suffix(".sql").name)
                file.write_text(as_sql(revision))
                files.append(file.name)
        if not files:
            print(f"Nothing to lint: {since} has all that is in migrations/versions.")
            return 0
        squawk = ["squawk", "--config", str(ROOT / ".squawk.toml"), *files]
        return subprocess.run(squawk, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
