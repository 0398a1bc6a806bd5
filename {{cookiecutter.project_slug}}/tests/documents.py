"""What the documents say that the code knows. `python -m tests.documents` writes the README's table."""

import re
from pathlib import Path

from {{ cookiecutter.package_name }}.settings import Settings

from tests.support import ROOT

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
ROUTES = ROOT / "docs" / "routes.md"
RECIPES = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- variables: uv run poe fix writes this table -->", "<!-- end of variables -->"


def variables() -> str:
    """A row for each variable: its name, its default, and the first sentence of its docstring."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if field.is_required():
            default = "**needed**"
        elif field.default is None:
            default = ""
        else:
            default = f"`{str(field.default).lower()}`"
        sentence = re.split(r"\.(?:\s|$)", " ".join((field.description or "").split()))[0]
        rows.append(f"| `{name.upper()}` | {default} | {sentence} |")
    return "\n".join(rows)


def with_variables(readme: str) -> str:
    """The README with the table as it has to be."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md has to hold the lines {BEGIN} and {END}, in this order.")
    return f"{before}{BEGIN}\n\n{variables()}\n\n{END}{after}"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of Python in a document that are files, or parts of files: path and code."""
    block = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return block.findall(page.read_text())


def files() -> dict[str, str]:
    """The files that all of them together are."""
    found: dict[str, str] = {}
    for path, code in (block for page in (ROUTES, RECIPES, README) for block in blocks(page)):
        found[path] = f"{found[path]}\n\n{code}" if path in found else code
    return found


if __name__ == "__main__":
    README.write_text(with_variables(README.read_text()))
