"""`doctor`: whether callers' tokens can be verified."""

from collections.abc import AsyncIterator

from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok
from {{ cookiecutter.package_name }}.observe.patient import Patient


async def issuer(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the issuer's keys can be fetched."""
    keys = Keys(f"{patient.settings.supabase_url}/auth/v1", patient.settings.supabase_jwks_url)
    if found := await keys.fetch():
        names = sorted({key.algorithm_name for key in found.values()})
        yield ok(f"{len(found)} of {keys.issuer} for {', '.join(names)}", keys=len(found))
    else:
        yield failure(f"none of {keys.issuer}: {keys.failure}", "no token can be verified without")
