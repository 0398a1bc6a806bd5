"""The guarantees of a service with `auth=supabase`, each taken away."""

import pytest
import test_breakage
from conftest import Project, Service
from test_breakage import FAILURES, Row

CALLER = "src/{package}/database/caller.py"

OWNED = "migrations/owned.py"
NOTES = "src/{package}/notes/"
KEYS = "src/{package}/auth/keys.py"
TOKENS = "src/{package}/auth/tokens.py"
DEPENDENCIES = "src/{package}/auth/dependencies.py"
URL = "src/{package}/auth/url.py"
MAIN = "src/{package}/main.py"
SETTINGS = "src/{package}/settings.py"

CALLING = "tests/auth/test_caller.py::"
OWNING = "tests/auth/test_owned.py::"
NOTED = "tests/auth/test_notes.py::"
FETCHED = "tests/auth/test_keys.py::"
VERIFIED = "tests/auth/test_tokens.py::"
REFUSED = VERIFIED + "test_who_is_refused_learns_why"
ASKED = "tests/auth/test_dependencies.py::"
CONFIGURED = "tests/auth/test_url.py::"
AT_ONCE = "tests/service_auth/test_callers_at_once.py::"
LOGGING_IN = "tests/auth/test_login_role.py::"

CALLING_TOO = "tests/service_auth/test_caller.py::"
OWNING_TOO = "tests/service_auth/test_owned.py::"
FETCHED_TOO = "tests/service_auth/test_keys.py::"
VERIFIED_TOO = "tests/service_auth/test_tokens.py::"

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
        CALLING_TOO + "test_an_engine_in_autocommit_is_refused",
    ),
    Row(
        "another connection after one that can't tell",
        CALLER,
        {"        connection.invalidate()  # the": "        # the"},
        CALLING_TOO + "test_a_connection_of_before_is_refused",
    ),
    Row(
        "a caller also on the connection after one that was lost",
        CALLER,
        {
            "def _tell(": "TOLD: list[Caller | None] = []\n\n\ndef _tell(",
            "    if caller is None:": (
                "    TOLD.append(caller)\n    if caller is None or TOLD.count(caller) > 1:"
            ),
        },
        CALLING + "test_who_loses_a_connection_goes_on_as_the_caller",
    ),
    Row(
        "no caller on a connection that can't tell",
        CALLER,
        {"issubclass(type(driver), CallerConnection)": "isinstance(driver, CallerConnection)"},
        CALLING_TOO + "test_a_connection_of_before_is_refused",
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
        CALLING_TOO + "test_claims_arrive_as_they_are",
    ),
    Row(
        "claims without NUL",
        CALLER,
        {r"""if r"\u0000" in claims.replace(r"\\", ""):""": "if False:"},
        CALLING_TOO + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "claims with backslashes before u0000",
        CALLER,
        {r"""claims.replace(r"\\", "")""": "claims"},
        CALLING_TOO + "test_claims_arrive_as_they_are",
    ),
    Row(
        "claims without half of a pair",
        CALLER,
        {"        json.dumps(self.claims, ensure_ascii=False).encode()": "        ()"},
        CALLING_TOO + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "claims that are JSON",
        CALLER,
        {", allow_nan=False": ""},
        CALLING_TOO + "test_what_jsonb_can_not_hold_is_refused",
    ),
    Row(
        "a caller who is not the login",
        CALLER,
        {'if self.role == "none":': "if False:"},
        CALLING_TOO + "test_the_login_is_no_role_of_a_caller",
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
        "src/{package}/observe/server.py",
        {", 'authenticated')": ")"},
        LOGGING_IN + "test_doctor_and_serve_say_nothing_of_one_that_is",
    ),
    Row(
        "a word of serve about the login",
        "src/{package}/cli.py",
        {"    asyncio.run(warn_of_login(settings))\n": ""},
        LOGGING_IN + "test_serve_says_so_once",
    ),
]


DUE = "(key is None or age >= _REFRESH) and now - self._tried_at >= _PAUSE"
WAITS = "(key is None or (age >= _STALE and not self.failure))"

TOKEN_ROWS = [
    Row(
        "keys: no pause between two attempts",
        KEYS,
        {DUE: "(key is None or age >= _REFRESH)"},
        FETCHED_TOO + "test_made_up_key_ids_are_asked_for_once",
    ),
    Row(
        "keys: a pause only after a success",
        KEYS,
        {
            "            self._tried_at = now\n": "",
            "self._fetched_at, self.failure = monotonic(), None": "self._fetched_at = "
            "self._tried_at = monotonic(); self.failure = None",
        },
        FETCHED_TOO + "test_made_up_key_ids_are_asked_for_once",
    ),
    Row(
        "keys: each request its own fetch",
        KEYS,
        {f"if {DUE}": "if key is None"},
        FETCHED + "test_all_who_come_at_once_share_one_fetch",
    ),
    Row(
        "keys: a client that goes ends the fetch of all",
        KEYS,
        {"await asyncio.shield(self._fetching)": "await self._fetching"},
        FETCHED_TOO + "test_who_goes_away_takes_nobody_along",
    ),
    Row(
        "keys: whoever makes up an id waits",
        KEYS,
        {"self._waiting >= _WAITING:": "False:"},
        FETCHED_TOO + "test_made_up_key_ids_take_nobodys_place",
    ),
    Row(
        "keys: never refreshed",
        KEYS,
        {DUE: "key is None and now - self._tried_at >= _PAUSE"},
        FETCHED + "test_keys_are_refreshed_in_the_background",
    ),
    Row(
        "keys: refreshed while a request waits",
        KEYS,
        {"age >= _STALE and": "age >= _REFRESH and"},
        FETCHED + "test_keys_are_refreshed_in_the_background",
    ),
    Row(
        "keys: a revoked one is good once more after a quiet night",
        KEYS,
        {WAITS: "key is None"},
        FETCHED_TOO + "test_after_a_quiet_night_a_revoked_key_is_not_good_once_more",
    ),
    Row(
        "keys: requests wait for an issuer that is down",
        KEYS,
        {WAITS: "(key is None or age >= _STALE)"},
        FETCHED + "test_while_the_issuer_is_down_old_keys_are_good_for_an_hour",
    ),
    Row(
        "keys: good for ever while the issuer is down",
        KEYS,
        {">= _LAST": ">= 1e9"},
        FETCHED + "test_while_the_issuer_is_down_old_keys_are_good_for_an_hour",
    ),
    Row(
        "keys: gone when the issuer is down",
        KEYS,
        {">= _LAST": ">= _REFRESH"},
        FETCHED + "test_while_the_issuer_is_down_old_keys_are_good_for_an_hour",
    ),
    Row(
        "keys: 401 where nobody can know",
        KEYS,
        {"if key is None and self.failure:": "if False:"},
        FETCHED_TOO + "test_an_issuer_that_is_not_there",
    ),
    Row(
        "keys: an issuer that trickles is waited for",
        KEYS,
        {"asyncio.timeout(_TIMEOUT)": "asyncio.timeout(None)"},
        FETCHED_TOO + "test_an_issuer_that_does_not_end_is_given_up",
    ),
    Row(
        "keys: a server's certificate is not verified",
        KEYS,
        {"verify=self._tls": "verify=False"},
        FETCHED_TOO + "test_an_issuer_whose_certificate_nobody_knows_is_not_believed",
    ),
    Row(
        "keys: a redirect is followed",
        KEYS,
        {"client.get(self._url)": "client.get(self._url, follow_redirects=True)"},
        FETCHED_TOO + "test_an_answer_that_is_no_set_of_keys",
    ),
    Row(
        "keys: one that is broken breaks all",
        KEYS,
        {"with suppress(Exception):": "if True:"},
        FETCHED_TOO + "test_a_key_that_can_not_be_used_harms_no_other",
    ),
    Row(
        "keys: one with its private half",
        KEYS,
        {' and "d" not in it': ""},
        FETCHED_TOO + "test_a_key_that_can_not_be_used_harms_no_other",
    ),
    Row(
        "keys: one for encryption",
        KEYS,
        {' and it.get("use", "sig") == "sig"': ""},
        FETCHED_TOO + "test_a_key_that_can_not_be_used_harms_no_other",
    ),
    Row(
        "keys: HS256 allowed",
        KEYS,
        {'ALGORITHMS = ("ES256"': 'ALGORITHMS = ("HS256", "ES256"'},
        FETCHED_TOO + "test_a_key_that_can_not_be_used_harms_no_other",
    ),
    Row(
        "keys: silence about a project that signs with its secret",
        KEYS,
        {": {todo}": ""},
        FETCHED_TOO + "test_a_project_with_the_legacy_secret_is_told_what_to_do",
    ),
    Row(
        "keys: an answer without one takes all away",
        KEYS,
        {"    if not keys:": "    if False:"},
        FETCHED_TOO + "test_an_answer_without_a_key_takes_no_key_away",
    ),
    Row(
        "keys: a proxy for what NO_PROXY names",
        KEYS,
        {"trust_env=trust": "trust_env=True"},
        FETCHED_TOO + "test_no_proxy_is_asked_about_what_no_proxy_names",
    ),
    Row(
        "keys: no proxy for anything",
        KEYS,
        {"trust_env=trust": "trust_env=False"},
        FETCHED_TOO + "test_a_proxy_of_the_environment_is_asked",
    ),
    Row(
        "keys: a fetch outlives the service",
        MAIN,
        {"            await keys.aclose()\n": ""},
        FETCHED_TOO + "test_nothing_is_pending_when_the_service_ends",
    ),
    Row(
        "token: aud unchecked",
        TOKENS,
        {
            '            audience="authenticated",\n': "",
            '{"enforce_minimum_key_length": True}': '{"enforce_minimum_key_length": True, '
            '"verify_aud": False}',
        },
        REFUSED,
    ),
    Row("token: iss unchecked", TOKENS, {"            issuer=keys.issuer,\n": ""}, REFUSED),
    Row(
        "token: without exp",
        TOKENS,
        {'"exp": int()': '"iss": str()'},
        VERIFIED_TOO + "test_a_hostile_token_is_refused",
    ),
    Row("token: any role", TOKENS, {" and role in _ROLES": ""}, REFUSED),
    Row(
        "token: sub in any form",
        TOKENS,
        {"str(user := UUID(sub)) == sub": "(user := UUID(sub))"},
        REFUSED,
    ),
    Row("token: a generous clock", TOKENS, {"_LEEWAY = 10": "_LEEWAY = 3600"}, REFUSED),
    Row(
        "token: no leeway",
        TOKENS,
        {"_LEEWAY = 10": "_LEEWAY = 0"},
        VERIFIED + "test_clocks_may_differ_by_some_seconds",
    ),
    Row(
        "token: a key of any length",
        TOKENS,
        {'{"enforce_minimum_key_length": True}': "{}"},
        FETCHED_TOO + "test_a_key_that_is_too_short_proves_nothing",
    ),
    Row(
        "token: parsed at any size",
        TOKENS,
        {"if len(token) > _LONGEST:": "if False:"},
        VERIFIED_TOO + "test_a_token_of_more_than_8_kb_is_not_parsed",
    ),
    Row(
        "token: nobody learns why it is refused",
        TOKENS,
        {"_REASONS.get(type(error), reason)": "reason"},
        REFUSED,
    ),
    Row(
        "token: policies see what users write",
        TOKENS,
        {'"app_metadata")': '"app_metadata", "user_metadata")'},
        VERIFIED + "test_policies_get_what_users_can_not_change",
    ),
    Row(
        "token: an anonymous sign-in is like any other",
        TOKENS,
        {'"is_anonymous", ': ""},
        VERIFIED + "test_policies_get_what_users_can_not_change",
    ),
    Row(
        "token: a 401 without WWW-Authenticate",
        TOKENS,
        {"""{"WWW-Authenticate": 'Bearer error="invalid_token"'}""": "{}"},
        REFUSED,
    ),
    Row(
        "no token: a 401 without WWW-Authenticate",
        DEPENDENCIES,
        {'told = {"WWW-Authenticate": "Bearer"}': "told = None"},
        ASKED + "test_without_a_token_nobody_is_known",
    ),
    Row(
        "no token: the first of two counts",
        DEPENDENCIES,
        {
            '", ".join(connection.headers.getlist("authorization"))': 'connection.headers.get("authorization", "")'
        },
        ASKED + "test_without_a_token_nobody_is_known",
    ),
    Row(
        "a user's commit after the response",
        DEPENDENCIES,
        {', scope="function"': ""},
        ASKED + "test_a_commit_that_fails_is_no_2xx",
    ),
    Row(
        "one transaction for as long as a WebSocket is open",
        DEPENDENCIES,
        {'if connection.scope["type"] == "websocket":': "if False:"},
        ASKED + "test_a_websocket_has_a_caller",
    ),
    Row(
        "OpenAPI without the security scheme",
        DEPENDENCIES,
        {"class _Bearer(SecurityBase):": "class _Bearer:"},
        ASKED + "test_openapi_says_which_routes_want_a_token",
    ),
    Row(
        "what a policy refuses is a defect",
        FAILURES,
        {'    "42501": Failure.FORBIDDEN,': '    "42___": Failure.FORBIDDEN,'},
        ASKED + "test_what_a_policy_refuses_is_a_403",
    ),
    Row(
        "tokens in the log",
        DEPENDENCIES,
        {"return await verify(": "print(token)\n        return await verify("},
        ASKED + "test_no_token_and_no_claim_is_in_the_log",
    ),
    Row(
        "keys by http, of anybody",
        URL,
        {'if url.scheme == "http" and': "if False and"},
        CONFIGURED + "test_refusals_name_the_problem_and_the_fix",
    ),
    Row(
        "SUPABASE_URL with a secret in the error",
        URL,
        {"suppress(ValidationError)": "suppress(ZeroDivisionError)"},
        CONFIGURED + "test_refusals_name_the_problem_and_the_fix",
    ),
    Row(
        "SUPABASE_URL with a placeholder",
        URL,
        {"if not _WRONG.search(text):": "if True:"},
        CONFIGURED + "test_refusals_name_the_problem_and_the_fix",
    ),
    Row(
        "a connection string is proposed for SUPABASE_URL",
        SETTINGS,
        {' and variable == "DATABASE_URL"': ""},
        CONFIGURED + "test_refusals_name_the_problem_and_the_fix",
    ),
    Row(
        "a token of dev's issuer is good anywhere",
        TOKENS,
        {"issuer=keys.issuer,": 'issuer=[keys.issuer, "http://dev.localhost/auth/v1"],'},
        REFUSED,
    ),
]


OWNER_ROWS = [
    Row(
        "a policy needs row-level security",
        OWNED,
        {"{table} ENABLE ROW": "{table} DISABLE ROW"},
        OWNING_TOO + "test_rows_are_their_owners",
    ),
    Row(
        "a policy holds for the table's owner",
        OWNED,
        {"{table} FORCE ROW": "{table} NO FORCE ROW"},
        OWNING_TOO + "test_rows_are_their_owners",
    ),
    Row(
        "a row is written as one's own",
        OWNED,
        {"WITH CHECK ({owned})": "WITH CHECK (true)"},
        OWNING_TOO + "test_a_policy_holds_what_a_grant_would_allow",
    ),
    Row(
        "a setting that somebody had is nobody's claims",
        OWNED,
        {
            "(nullif(current_setting('request.jwt.claims', true), '')": (
                "(current_setting('request.jwt.claims', true)"
            )
        },
        OWNING_TOO + "test_whoever_is_nobodys_caller_sees_nothing",
    ),
    Row(
        "a policy is for callers",
        OWNED,
        {"{table} TO authenticated ": "{table} "},
        OWNING + "test_no_table_of_owners_is_open",
    ),
    Row(
        "a policy is about owners",
        OWNED,
        {'owned = f"owner_id = (SELECT {CALLER_ID})"': 'owned = "true"'},
        OWNING + "test_no_table_of_owners_is_open",
    ),
    Row(
        "no row for a route that forgets who is asking",
        OWNED,
        {
            "    op.execute(TAKE_AWAY.format(table=table))\n": (
                '    op.execute(f"GRANT SELECT ON {table} TO service")\n'
                '    op.execute(f"CREATE POLICY all_rows ON {table} TO service USING (true)")\n'
            )
        },
        NOTED + "test_who_forgets_the_caller_is_refused",
    ),
    Row(
        "what was granted before is taken away",
        OWNED,
        {"    op.execute(TAKE_AWAY.format(table=table))\n": ""},
        OWNING_TOO + "test_what_was_granted_before_is_taken_away",
    ),
    Row(
        "what anon was granted before is taken away",
        OWNED,
        {"to_regrole('anon') IS NOT NULL": "false"},
        OWNING_TOO + "test_what_was_granted_before_is_taken_away",
    ),
    Row(
        "revisions know who is asking",
        CALLER,
        {"(nullif(current_setting('request.jwt.claims', true), '')": "(auth.jwt()"},
        OWNING + "test_who_is_asking_is_the_same_in_revisions",
    ),
    Row(
        "callers may use the schema",
        OWNED,
        {"    EXECUTE use_it;\n": ""},
        OWNING_TOO + "test_in_a_schema_of_its_own",
    ),
    Row(
        "callers write the columns that are named",
        OWNED,
        {"INSERT ({columns}), UPDATE ({columns})": "INSERT, UPDATE"},
        OWNING_TOO + "test_a_caller_writes_only_what_is_granted",
    ),
    Row(
        "the login inherits nothing from callers",
        OWNED,
        {"INHERIT FALSE'": "INHERIT TRUE'"},
        OWNING_TOO + "test_the_login_has_no_rights_of_callers",
    ),
    Row(
        "two databases make one role",
        OWNED,
        {"duplicate_object OR unique_violation": "duplicate_object"},
        OWNING_TOO + "test_two_databases_make_the_role_at_once",
    ),
    Row(
        "an administrator is told what to run",
        OWNED,
        {"concat(make, '; ', join_it)": "make"},
        OWNING_TOO + "test_what_the_login_may_not_do_is_an_administrators",
    ),
    Row(
        "a revision does not forget whose a table is",
        "migrations/versions/0002_create_notes.py",
        {'    owner_only("notes", writable="text")\n': ""},
        OWNING + "test_no_table_of_owners_is_open",
    ),
    Row(
        "a body does not name the owner",
        NOTES + "schemas.py",
        {
            'class NoteCreate(BaseModel):\n    model_config = ConfigDict(extra="forbid")\n': (
                "class NoteCreate(BaseModel):\n"
            )
        },
        NOTED + "test_no_body_names_the_owner",
    ),
    Row(
        "a route that asks who is asking",
        NOTES + "routes.py",
        {
            "async def list_notes(\n    session: UserSessionDep": (
                "async def list_notes(\n    session: ReadSessionDep"
            ),
            "from orders_api.web.problems": (
                "from orders_api.web.dependencies import ReadSessionDep\n"
                "from orders_api.web.problems"
            ),
        },
        ASKED + "test_no_route_forgets_who_is_asking",
    ),
    Row(
        "a note is read as its owner",
        NOTES + "routes.py",
        {
            "read_note(note_id: NoteId, session: UserSessionDep)": (
                "read_note(note_id: NoteId, session: SessionDep, _: UserSessionDep)"
            ),
            "from orders_api.web.problems": (
                "from orders_api.web.dependencies import SessionDep\nfrom orders_api.web.problems"
            ),
        },
        NOTED + "test_anothers_note_is_as_one_that_is_not",
    ),
]


@pytest.mark.parametrize("row", [*ROWS, *TOKEN_ROWS, *OWNER_ROWS], ids=lambda row: row.broken)
def test_a_broken_guarantee_is_noticed(
    service: Service, copied: Project, given: dict[str, str], row: Row
) -> None:
    test_breakage.test_a_broken_guarantee_is_noticed(service, copied, given, row)
