"""What the documents say that the code knows. `python -m tests.documents` writes the README's table."""

import re

from {{ cookiecutter.package_name }}.settings import Settings

from tests.support import ROOT

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
ROUTES = ROOT / "docs" / "routes.md"
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


def files(document: str) -> dict[str, str]:
    """The files that the blocks of Python in a document are, or are parts of, by their first lines."""
    found: dict[str, str] = {}
    block = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for path, code in block.findall(document):
        found[path] = found.get(path, "") + code + "\n\n"
    return found


if __name__ == "__main__":
    README.write_text(with_variables(README.read_text()))
