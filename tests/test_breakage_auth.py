"""The guarantees of a service with `auth=supabase`, each taken away."""

import pytest
import test_breakage
from conftest import Project
from test_breakage import Row

CALLER = "src/{package}/database/caller.py"

OWNED = "migrations/owned.py"
NOTES = "src/{package}/notes/"

CALLING = "tests/auth/test_caller.py::"
OWNING = "tests/auth/test_owned.py::"
NOTED = "tests/auth/test_notes.py::"


@pytest.fixture(scope="session")
def service(auth_service: Project) -> Project:
    """In the place of the one with the default answers, for `copied` and `given` too."""
    return auth_service


ROWS = [
    Row(
        "a policy needs row-level security",
        OWNED,
        {"{table} ENABLE ROW": "{table} DISABLE ROW"},
        OWNING + "test_rows_are_their_owners",
    ),
    Row(
        "a policy holds for the table's owner",
        OWNED,
        {"{table} FORCE ROW": "{table} NO FORCE ROW"},
        OWNING + "test_rows_are_their_owners",
    ),
    Row(
        "a row is written as one's own",
        OWNED,
        {"WITH CHECK ({owned})": "WITH CHECK (true)"},
        OWNING + "test_a_policy_holds_what_a_grant_would_allow",
    ),
    Row(
        "a setting that somebody had is nobody's claims",
        CALLER,
        {
            "(nullif(current_setting('request.jwt.claims', true), '')": (
                "(current_setting('request.jwt.claims', true)"
            )
        },
        OWNING + "test_whoever_is_nobodys_caller_sees_nothing",
    ),
    Row(
        "a policy is for callers",
        OWNED,
        {"{table} TO authenticated ": "{table} "},
        OWNING + "test_no_table_of_owners_is_open",
    ),
    Row(
        "callers may use the schema",
        OWNED,
        {"    EXECUTE use_it;\n": ""},
        OWNING + "test_in_a_schema_of_its_own",
    ),
    Row(
        "callers write the columns that are named",
        OWNED,
        {"INSERT ({writable}), UPDATE ({writable})": "INSERT, UPDATE"},
        OWNING + "test_a_caller_writes_only_what_is_granted",
    ),
    Row(
        "the login inherits nothing from callers",
        OWNED,
        {"INHERIT FALSE'": "INHERIT TRUE'"},
        OWNING + "test_the_login_has_no_rights_of_callers",
    ),
    Row(
        "two databases make one role",
        OWNED,
        {"duplicate_object OR unique_violation": "duplicate_object"},
        OWNING + "test_two_databases_make_the_role_at_once",
    ),
    Row(
        "an administrator is told what to run",
        OWNED,
        {"concat(make, '; ', join_it)": "make"},
        OWNING + "test_what_the_login_may_not_do_is_an_administrators",
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_broken_guarantee_is_noticed(
    service: Project, copied: Project, given: dict[str, str], row: Row
) -> None:
    test_breakage.test_a_broken_guarantee_is_noticed(service, copied, given, row)
