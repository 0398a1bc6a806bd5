"""Take away what was not asked for: whole files, where a name can't say it."""

import shutil
from pathlib import Path

PACKAGE = Path("src/{{ cookiecutter.package_name }}")
ITEMS = [PACKAGE / "items", "migrations/versions/0001_create_items.py", "tests/api/test_items.py"]
NOTES = [PACKAGE / "notes", "migrations/versions/0002_create_notes.py", "tests/auth/test_notes.py"]
AUTH = [
    *(PACKAGE / "auth", PACKAGE / "database/caller.py", PACKAGE / "observe/issuer.py"),
    *("migrations/owned.py", "devstack/issuer.py", "docs/auth.md", "tests/auth"),
]

example = "{{ cookiecutter.example_resource }}" == "yes"
auth = "{{ cookiecutter.auth }}" == "supabase"
unwanted = [
    *([] if example else ITEMS),
    *([] if example and auth else NOTES),
    *([] if auth else AUTH),
]
for path in map(Path, unwanted):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
