from collections.abc import Iterator

import pytest

from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import Issuer
from devstack.issuer import issuer as serve_issuer
from tests.support import Database


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    with serve_issuer() as it:
        yield it


@pytest.fixture(scope="session")
def settings(database: Database, issuer: Issuer) -> Settings:
    values = {"database_url": database.pooler_url, "supabase_url": issuer.url}
    return Settings.model_validate(values)
