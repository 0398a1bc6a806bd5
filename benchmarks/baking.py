"""Bake a project from this template, as `cookiecutter` does, for the benchmarks and for the tests."""

import os
import sys
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]

# VIRTUAL_ENV names the template's environment. Some machines set PYTHONDONTWRITEBYTECODE, with which
# every process compiles every module again: 4 seconds instead of 1 for each start.
HIDDEN = (
    *("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"),
    *("DATABASE_", "LOG_", "SUPABASE_"),
)


def environment(**variables: str) -> dict[str, str]:
    """The environment for a generated project: the same Python, and none of its settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)}
    return inherited | {"UV_PYTHON": sys.executable} | variables


def bake(folder: Path, **answers: str) -> Path:
    """Generate a project below `folder`, with the defaults for what `answers` leaves out."""
    # Here, for who only draws a report: it takes its time.
    from cookiecutter.main import cookiecutter

    config = folder / "cookiecutter.yaml"
    # Nothing of the user's own configuration, and no replay file in their home.
    config.write_text(f"replay_dir: {folder}/replay\ncookiecutters_dir: {folder}/cookiecutters\n")
    return Path(
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            config_file=str(config),
        )
    )
