"""The issuer's keys: fetched once for all, again when they may have changed, and kept while it is down."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fastapi.exceptions import HTTPException

from {{ cookiecutter.package_name }}.auth.tokens import verify
from {{ cookiecutter.package_name }}.observe.issuer import issuer as check_issuer
from {{ cookiecutter.package_name }}.observe.patient import Options, Patient
from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import make_key, public, serving
from tests.auth.issuers import Clock, Moody, fetched, keys_of, refused


async def test_all_who_come_at_once_share_one_fetch() -> None:
    issuer = Moody()
    issuer.may_answer.clear()
    with keys_of(issuer) as keys:
        token = issuer.token()
        verifying = asyncio.gather(*(verify(token, keys) for _ in range(100)))
        await issuer.is_asked()
        issuer.may_answer.set()
        assert len({it.id for it in await verifying}) == 1
    assert issuer.asked == 1


async def test_keys_are_refreshed_in_the_background(clock: Clock) -> None:
    issuer = Moody()
    with keys_of(issuer) as keys:
        revoked = issuer.token()
        await verify(revoked, keys)
        issuer.keys = [public(make_key())]
        clock.passed = 299
        await verify(revoked, keys)
        assert keys._fetching is None
        clock.passed = 301
        issuer.may_answer.clear()
        await verify(revoked, keys)
        assert keys._fetching  # for which nobody has waited
        issuer.may_answer.set()
        await fetched(keys)
        assert await refused(keys, revoked) == 401
    assert issuer.asked == 2


async def test_while_the_issuer_is_down_old_keys_are_good_for_an_hour(clock: Clock) -> None:
    issuer = Moody()
    with keys_of(issuer) as keys:
        token = issuer.token(seconds=7200)
        await verify(token, keys)
        issuer.status = 502
        for clock.passed in (400, 700, 3500):
            issuer.may_answer.clear()
            await verify(token, keys)
            assert keys._fetching  # nobody waits for an attempt that is in vain
            issuer.may_answer.set()
            await fetched(keys)
        assert issuer.asked == 4
        clock.passed = 3601
        with pytest.raises(HTTPException) as refusal:
            await verify(token, keys)
        assert refusal.value.status_code == 503
        assert refusal.value.headers == {"Retry-After": "10"}
        issuer.status = 200
        assert await refused(keys, token) == 503  # the pause
        clock.passed += 10
        await verify(token, keys)


async def test_doctor_says_whether_tokens_can_be_verified(settings: Settings) -> None:
    async def examined(url: str) -> tuple[str, str]:
        patient = Patient(settings.model_copy(update={"supabase_url": url}), Options(), stack)
        [found] = [it async for it in check_issuer(patient)]
        return found.level, found.observed

    issuer = Moody()
    async with AsyncExitStack() as stack:
        with serving(issuer) as url:
            assert await examined(url) == ("ok", f"1 of {url}/auth/v1 for ES256")
            issuer.status = 404
            assert "the answer is 404" in (await examined(url))[1]
        assert (await examined(url))[0] == "failure"
