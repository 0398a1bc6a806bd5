"""Take away what was not asked for: whole files, where a name can't say it."""

import shutil
from pathlib import Path

if "{{ cookiecutter.example_resource }}" == "no":
    shutil.rmtree("src/{{ cookiecutter.package_name }}/items")
    Path("migrations/versions/0001_create_items.py").unlink()
    Path("tests/api/test_items.py").unlink()
