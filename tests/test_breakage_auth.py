"""The guarantees of a service with `auth=supabase`, each taken away."""

import pytest
import test_breakage
from conftest import Project, Service
from test_breakage import Row

CALLER = "src/{package}/database/caller.py"

CALLING = "tests/auth/test_caller.py::"
AT_ONCE = "tests/auth/test_callers_at_once.py::"
LOGGING_IN = "tests/auth/test_login_role.py::"

LOCAL = {
    "E'{role}', true)": "E'{role}', false)",
    "E'{claims}', true)": "E'{claims}', false)",
}


@pytest.fixture(scope="session")
def service(auth_service: Service) -> Service:
    """In the place of the one with the default answers, for `copied` and `given` too."""
    return auth_service


ROWS = [
    Row(
        "a transaction that is the caller's",
        CALLER,
        {'f"{query} {self.caller.sql}"': "query"},
        CALLING + "test_each_caller_has_what_is_theirs",
    ),
    Row(
        "nobody's connection, once it is back",
        CALLER,
        {"        self.caller = None\n": ""},
        CALLING + "test_nobody_is_the_caller_after_it",
    ),
    Row(
        "nobody's connection, once it is back, under load",
        CALLER,
        {"        self.caller = None\n": ""},
        AT_ONCE + "test_nobody_is_taken_for_another_and_nothing_is_lost",
    ),
    Row(
        "settings of the transaction",
        CALLER,
        LOCAL,
        CALLING + "test_nobody_is_the_caller_after_it",
    ),
    Row(
        "settings of the transaction, under load",
        CALLER,
        LOCAL,
        AT_ONCE + "test_nobody_is_taken_for_another_and_nothing_is_lost",
    ),
    Row(
        "no round trip for the caller",
        CALLER,
        {
            'return await super().execute(f"{query} {self.caller.sql}", **options)': (
                "await super().execute(query)\n"
                "            return await super().execute(self.caller.sql, **options)"
            )
        },
        AT_ONCE + "test_a_callers_transaction_costs_no_more_trips",
    ),
    Row(
        "no caller in AUTOCOMMIT",
        CALLER,
        {"if not can_tell or lent.dbapi_connection.autocommit:": "if not can_tell:"},
        CALLING + "test_an_engine_in_autocommit_is_refused",
    ),
    Row(
        "no statement after one that was refused",
        CALLER,
        {"        connection.invalidate()  # or": "        # or"},
        CALLING + "test_an_engine_in_autocommit_is_refused",
    ),
    Row(
        "no caller on a connection that can't tell",
        CALLER,
        {"issubclass(type(driver), CallerConnection)": "isinstance(driver, CallerConnection)"},
        CALLING + "test_a_connection_of_before_is_refused",
    ),
    Row(
        "no success after a BEGIN that failed",
        CALLER,
        {"            self.terminate()\n": ""},
        LOGGING_IN + "test_a_login_that_is_no_member",
    ),
    Row(
        "a service that is not set up, and no client's fault",
        CALLER,
        {"if error.sqlstate in _CANT_TAKE:": "if False:"},
        LOGGING_IN + "test_a_login_that_is_no_member",
    ),
    Row(
        "a service that is not set up, and no outage",
        CALLER,
        {'    sqlstate = "0P000"': "    sqlstate = None"},
        LOGGING_IN + "test_a_role_that_there_is_not",
    ),
    Row(
        "claims as they are, however they are quoted",
        CALLER,
        {"E'{claims}'": "'{claims}'"},
        CALLING + "test_claims_arrive_as_they_are",
    ),
    Row(
        "claims without NUL",
        CALLER,
        {r"""if r"\u0000" in claims.replace(r"\\", ""):""": "if False:"},
        CALLING + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "claims with backslashes before u0000",
        CALLER,
        {r"""claims.replace(r"\\", "")""": "claims"},
        CALLING + "test_claims_arrive_as_they_are",
    ),
    Row(
        "claims without half of a pair",
        CALLER,
        {"        json.dumps(self.claims, ensure_ascii=False).encode()": "        ()"},
        CALLING + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "claims that are JSON",
        CALLER,
        {", allow_nan=False": ""},
        CALLING + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "a caller who is not the login",
        CALLER,
        {'if self.role == "none":': "if False:"},
        CALLING + "test_the_login_is_no_role_of_a_caller",
    ),
    Row(
        "doctor's eye for a login above policies",
        CALLER,
        {" AND (rolsuper OR rolbypassrls)": " AND false"},
        LOGGING_IN + "test_doctor_fails_a_login_that_is_not_fit",
    ),
    Row(
        "doctor's eye for a login that is no member",
        CALLER,
        {"IS NOT TRUE": "IS NULL"},
        LOGGING_IN + "test_doctor_fails_a_login_that_is_not_fit",
    ),
    Row(
        "doctor's eye for what callers may",
        "src/{package}/observe/doctor.py",
        {"privilege) OR coalesce(": "privilege) AND coalesce("},
        LOGGING_IN + "test_doctor_and_serve_say_nothing_of_one_that_is",
    ),
    Row(
        "a word of serve about the login",
        "src/{package}/cli.py",
        {"    asyncio.run(warn_of_login(settings))\n": ""},
        LOGGING_IN + "test_serve_says_so_once",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_broken_guarantee_is_noticed(
    service: Service, copied: Project, given: dict[str, str], row: Row
) -> None:
    test_breakage.test_a_broken_guarantee_is_noticed(service, copied, given, row)
