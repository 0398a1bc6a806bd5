"""Every guarantee has a test that notices when it is taken away: break the service and see.

Each row patches a copy of a generated service and runs the tests that guard the guarantee. At least
one of them has to fail, and for nothing but that.
"""

import re
from dataclasses import dataclass

import pytest
from conftest import Project, Service, run_copied

ENGINE = "src/{package}/database/engine.py"
FAILURES = "src/{package}/database/failures.py"
CONNECTION = "src/{package}/database/connection.py"
DIALECT = "src/{package}/database/dialect.py"
DATABASE_SESSION = "src/{package}/database/session.py"
CONNECT = "src/{package}/database/connect.py"
URL = "src/{package}/database/url.py"
SETTINGS_PY = "src/{package}/settings.py"
PROBLEMS = "src/{package}/web/problems.py"
DEPENDENCIES = "src/{package}/web/dependencies.py"
MAIN = "src/{package}/main.py"
CLI = "src/{package}/cli.py"
LOGIN = "src/{package}/database/login.py"
REPORT = "src/{package}/database/report.py"
LOGS = "src/{package}/logs.py"
LIMITS = "src/{package}/web/limits.py"
DOCTOR = "src/{package}/observe/doctor.py"
ADDRESS = "src/{package}/observe/address.py"
PATIENT = "src/{package}/observe/patient.py"
POOLER = "src/{package}/observe/pooler.py"
MIGRATIONS_CHECKS = "src/{package}/observe/migrations.py"
BUDGET = "src/{package}/observe/budget.py"
METRICS = "src/{package}/database/metrics.py"
POOL = "src/{package}/database/pool.py"
REQUESTS = "src/{package}/web/requests.py"
TUNE = "src/{package}/observe/tune.py"
LOAD = "src/{package}/observe/load.py"
SIZING = "src/{package}/observe/sizing.py"
DEPLOYMENT = "kubernetes/service/deployment.yaml"
AUTOSCALER = "kubernetes/service/horizontalpodautoscaler.yaml"
JOB = "kubernetes/migrate/job.yaml"
DATA_API = "migrations/data_api.py"

STATEMENTS = "tests/pooler/test_statements.py::"
SETTINGS = "tests/pooler/test_settings.py::"
SETTINGS_TOO = "tests/service/test_settings.py::"
SESSION = "tests/api/test_session.py::"
MISUSE = "tests/api/test_misuse.py::"
MISUSE_TOO = "tests/service/test_misuse.py::"
HABITS = "tests/service/test_habits.py::"
NOT_STORED = HABITS + "test_what_would_not_be_stored_is_an_error"
READ_ANEW = HABITS + "test_what_was_read_before_a_commit_or_a_lock_is_read_anew"
READING = "tests/pooler/test_reading.py::"
SEALED = "tests/service/test_sealed.py::"
TRIPS = "tests/pooler/test_trips.py::test_a_request_costs_no_more_trips_than_it_must"
WEB = "tests/api/test_web.py::"
LIMITED = "tests/api/test_limits.py::"
FAULTS = "tests/service/faults/test_faults.py::"
HOSTILE = "tests/service/test_hostile.py::"
SERVE = "tests/api/test_serve.py::"
CONNECTING = "tests/service/test_connect.py::"
LATE = "tests/service/test_late.py::test_a_late_failure_is_logged_like_any_other_and_without_values"
KUBERNETES = "tests/unit/test_kubernetes.py::"
ROUTES = "tests/api/test_routes.py::"
EXAMINED = "tests/service/test_doctor.py::"
METERED = "tests/api/test_metrics.py::"
METERED_TOO = "tests/service/test_metrics.py::"
STRINGS = "tests/service/test_url.py::"
VARIABLES = "tests/unit/test_settings.py::"
TLS = "tests/pooler/test_tls.py::"
TLS_TOO = "tests/service/test_tls.py::"
MIGRATIONS = "tests/migrations/test_migrations.py::"
LOGGED_IN = "tests/migrations/test_login.py::"
TUNED = "tests/pooler/test_tune.py::"
TUNING = "tests/service/test_tune.py::"
CHOOSING = "tests/service/test_sizing.py::"
WORKERS = "tests/service/test_workers.py::"
CLOSED = "tests/migrations/test_data_api.py::"

ASYNCPG_CACHE = '        "statement_cache_size": 0,\n'
SQLALCHEMY_CACHE = '        "prepared_statement_cache_size": 0,\n'


LOST = {  # what tells that a connection was lost
    "if error.connection_invalidated else": "if False else",
    '    "08": Failure.UNAVAILABLE,': '    "0_": Failure.UNAVAILABLE,',
    '    "57": Failure.UNAVAILABLE,': '    "5_": Failure.UNAVAILABLE,',
    '    r"server login": Failure.UNAVAILABLE,': '    r"server login": Failure.UNKNOWN,',
    '    r"server conn crashed": Failure.UNAVAILABLE,': '    r"server conn": Failure.UNKNOWN,',
}


@dataclass(frozen=True)
class Row:
    broken: str
    """The guarantee that is taken away."""
    file: str
    replace: dict[str, str]
    noticed_by: str
    """The test that fails; of a parametrised one, at least one case."""


ROWS = [
    Row(
        "neither cache setting",
        ENGINE,
        {ASYNCPG_CACHE: "", SQLALCHEMY_CACHE: ""},
        STATEMENTS + "test_a_query_repeated_on_one_connection",
    ),
    Row(
        "neither cache setting, under load",
        ENGINE,
        {ASYNCPG_CACHE: "", SQLALCHEMY_CACHE: ""},
        STATEMENTS + "test_many_sessions_at_once",
    ),
    Row(
        "only statement_cache_size=0",
        ENGINE,
        {SQLALCHEMY_CACHE: ""},
        "tests/pooler/test_schema_change.py::"
        "test_the_answer_is_right_or_an_error_but_never_garbage",
    ),
    Row(
        "only prepared_statement_cache_size=0",
        ENGINE,
        {ASYNCPG_CACHE: ""},
        STATEMENTS + "test_a_query_repeated_on_one_connection",
    ),
    Row(
        "only prepared_statement_cache_size=0: executemany",
        ENGINE,
        {ASYNCPG_CACHE: ""},
        STATEMENTS + "test_executemany_repeated_on_one_connection",
    ),
    Row(
        "the recipe of SQLAlchemy's documentation: what it leaves behind",
        ENGINE,
        {
            SQLALCHEMY_CACHE: SQLALCHEMY_CACHE
            + '        "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",\n',
            "from typing import Any\n": "from typing import Any\nfrom uuid import uuid4\n",
        },
        STATEMENTS + "test_no_statement_stays_behind",
    ),
    Row(
        "the recipe of SQLAlchemy's documentation: AUTOCOMMIT",
        ENGINE,
        {
            SQLALCHEMY_CACHE: SQLALCHEMY_CACHE
            + '        "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",\n',
            "from typing import Any\n": "from typing import Any\nfrom uuid import uuid4\n",
        },
        STATEMENTS + "test_a_query_repeated_on_one_connection",
    ),
    Row(
        "a ping that works through a pooler",
        CONNECTION,
        {'super().execute("SELECT 1"': 'super().execute("SELECT x"'},
        STATEMENTS + "test_a_ping_before_every_checkout",
    ),
    Row(
        "SET instead of SET LOCAL",
        "tests/pooler/test_statements.py",
        {'text("SET LOCAL statement_timeout': 'text("SET statement_timeout'},
        STATEMENTS + "test_set_local_ends_with_the_transaction",
    ),
    Row(
        "a commit before the response",
        DEPENDENCIES,
        {'Depends(_transaction, scope="function")': "Depends(_transaction)"},
        SESSION + "test_a_failing_commit_is_not_answered_with_success",
    ),
    Row(
        "the connection back before the response",
        DEPENDENCIES,
        {'Depends(_transaction, scope="function")': "Depends(_transaction)"},
        SESSION + "test_the_connection_is_back_before_the_response_leaves",
    ),
    Row(
        "a session that is closed whatever happens",
        DEPENDENCIES,
        {
            "    async with sessions.begin() as session:\n        yield session\n": (
                "    session = sessions.begin()\n    yield session\n"
                "    await session.commit()\n    await session.close()\n"
            )
        },
        SESSION + "test_a_hundred_failing_commits_leave_the_pool_full",
    ),
    Row(
        "a rollback after an exception",
        DEPENDENCIES,
        {
            "    async with sessions.begin() as session:\n        yield session\n": (
                "    async with sessions.begin() as session:\n        try:\n            yield session\n"
                "        finally:\n            await session.commit()\n"
            )
        },
        SESSION + "test_an_exception_rolls_back",
    ),
    Row(
        "no connection without a query",
        DEPENDENCIES,
        {
            "sessions.begin() as session:\n": (
                "sessions.begin() as session:\n        await session.connection()\n"
            )
        },
        SESSION + "test_a_route_without_a_query_takes_no_connection",
    ),
    Row(
        "a backend given back after a refused argument",
        ENGINE,
        {"if driver.failed and connection.autocommit:": "if False:"},
        "tests/pooler/test_reading.py::test_a_refused_argument_leaves_no_backend_pinned",
    ),
    Row(
        "no write in a session for reading",
        CONNECTION,
        {'if self.lent_to == "reader" and not only_reads(query):': "if False:"},
        READING + "test_a_write_or_a_lock_is_refused",
    ),
    Row(
        "no write by a method of a session for reading",
        DATABASE_SESSION,
        {"raise ReadOnlyError(f": "return print(f"},
        READING + "test_there_is_no_way_to_write",
    ),
    Row(
        "no change of what was read",
        "src/{package}/database/base.py",
        {"if inspect(changed).detached and by_itself:": "if False:"},
        READING + "test_what_was_read_can_not_be_changed",
    ),
    Row(
        "reading without a transaction: 1 trip",
        DATABASE_SESSION,
        {"lent.dbapi_connection.autocommit = True": "lent.dbapi_connection.autocommit = False"},
        TRIPS,
    ),
    Row(
        "1 trip for what is sealed: the casts",
        DIALECT,
        {"return _SealedColumn(column, self)": "return colexpr"},
        TRIPS,
    ),
    Row(
        "1 trip for what is sealed: keeping it",
        CONNECTION,
        {"        self._kept[query] = statement\n": ""},
        TRIPS,
    ),
    Row(
        "only what is sealed is kept",
        CONNECTION,
        {" or not is_sealed(query)": ""},
        SEALED + "test_types_change_under_load",
    ),
    Row(
        "a parameter without a type is not sealed",
        "src/{package}/database/sql.py",
        {"""return "$" not in rest and '"' not in rest and not""": "return not"},
        "tests/service/test_sql.py::test_a_statement_whose_types_others_decide",
    ),
    Row(
        "casts without a length",
        DIALECT,
        {
            "return adapted.adapt(_mixed(_Sealed, kind, name, rendered))": (
                "return adapted.adapt(_mixed(_Sealed, kind, rendered, rendered))"
            )
        },
        SEALED + "test_a_type_that_changes_under_a_live_connection",
    ),
    Row(
        "casts of columns only",
        DIALECT,
        {"if isinstance(column, Column) and isinstance(table, Table):": "if True:"},
        SEALED + "test_only_columns_are_cast",
    ),
    Row(
        "no casts where they would change the result",
        DIALECT,
        {
            "if len(compiler.stack) > 1 or getattr(": "if getattr(",
            '"_distinct", False)': '"_nothing", False)',
        },
        SEALED + "test_what_a_cast_would_change_has_none",
    ),
    Row(
        "a table's types with their lengths",
        DIALECT,
        {"ours = what is None or what.type is self": "ours = True"},
        SEALED + "test_types_of_ones_own",
    ),
    Row(
        "an error for a value that is too long, in an array too",
        DIALECT,
        {"if (name := uncut_type(rendered)) != rendered:": "if False:"},
        SEALED + "test_what_is_too_long_is_refused_and_not_cut",
    ),
    Row(
        "values as the model has them, casts or not",
        DIALECT,
        {"return _SealedColumn(column, self)": "return cast(column, self)"},
        SEALED + "test_every_type_comes_back_as_it_went",
    ),
    Row(
        "types of an owner's, around those that are sealed",
        DIALECT,
        {
            '{"name_in_casts": in_casts, "name_as_declared": as_declared}': "{}",
            "            return adapted.adapt(_mixed(_Sealed, kind, name, rendered))\n": (
                "            sealed = adapted.adapt(_mixed(_Sealed, kind, name, rendered))\n"
                "            sealed.name_in_casts, sealed.name_as_declared = name, rendered\n"
                "            return sealed\n"
            ),
        },
        SEALED + "test_types_of_ones_own",
    ),
    Row(
        "a bound on what a connection keeps",
        CONNECTION,
        {"_KEPT_STATEMENTS = 100": "_KEPT_STATEMENTS = 1000"},
        SEALED + "test_what_is_kept_has_a_bound",
    ),
    Row(
        "a codec that counts at once",
        CONNECTION,
        {"        self._kept.clear()\n": ""},
        SEALED + "test_a_codec_counts_from_its_registration_on",
    ),
    Row(
        "no moment without an offset",
        DIALECT,
        {'if isinstance(value, date) and getattr(value, "tzinfo", None) is None:': "if False:"},
        SEALED + "test_a_moment_without_an_offset_is_refused",
    ),
    Row(
        "nothing after a session's end",
        DATABASE_SESSION,
        {
            "        if self.over:\n            raise": "        if False:\n            raise",
            "        if self.sync_session.over:\n": "        if False:\n",
        },
        MISUSE + "test_a_session_that_outlives_its_request",
    ),
    Row(
        "no result after its session's end",
        CONNECTION,
        {"        self._pool_release_ctr += 1\n": ""},
        MISUSE_TOO + "test_a_result_that_outlives_its_session",
    ),
    Row(
        "one thing at a time",
        DATABASE_SESSION,
        {"        if self._user is not None:\n": "        if False:\n"},
        MISUSE + "test_two_tasks_at_once",
    ),
    Row(
        "no commit after two things at a time",
        DATABASE_SESSION,
        {"            self._refusal = _IN_USE\n": ""},
        MISUSE_TOO + "test_two_tasks_at_once",
    ),
    Row(
        "no commit of what is on its way",
        DATABASE_SESSION,
        {"        if self._user is not None:  # who": "        if False:  # who"},
        MISUSE_TOO + "test_two_tasks_at_once",
    ),
    Row(
        "a connection that is back when what was on its way is over",
        DATABASE_SESSION,
        {"            if self.over:  # meanwhile": "            if False:  # meanwhile"},
        MISUSE_TOO + "test_two_tasks_at_once",
    ),
    Row(
        "no commit after the response",
        MAIN,
        {"    app.add_middleware(CommitBeforeResponse)\n": ""},
        MISUSE + "test_a_dependency_that_commits_after_the_response",
    ),
    Row(
        "no commit after the response, behind another middleware",
        MAIN,
        {
            "    app.add_middleware(CommitBeforeResponse)\n": "",
            "    app.add_middleware(RequestLog)\n": "    app.add_middleware(CommitBeforeResponse)\n"
            "    app.add_middleware(RequestLog)\n",
        },
        HABITS + "test_a_commit_after_the_response",
    ),
    Row(
        "work beside a request",
        DEPENDENCIES,
        {"if request and asyncio.current_task() in request.open:": "if request and request.open:"},
        HABITS + "test_a_commit_after_the_response",
    ),
    Row(
        "no commit without what was not awaited",
        DATABASE_SESSION,
        {"    if session.waiting or session._refusal:": "    if session._refusal:"},
        HABITS + "test_what_never_ran_is_an_error",
    ),
    Row(
        "no commit without an object that was not added",
        DATABASE_SESSION,
        {'warnings.filterwarnings("error", "Object': 'warnings.filterwarnings("ignore", "Object'},
        HABITS + "test_an_object_that_was_not_added_is_an_error_without_pytest",
    ),
    Row(
        "nothing old after a commit",
        DATABASE_SESSION,
        {"        if session._old or locks:": "        if locks:"},
        READ_ANEW,
    ),
    Row(
        "nothing old after a commit, by its key",
        DATABASE_SESSION,
        {"        if self._old and self.autoflush:": "        if False:"},
        READ_ANEW,
    ),
    Row(
        "nothing old behind a lock",
        DATABASE_SESSION,
        {"        if session._old or locks:": "        if session._old:"},
        READ_ANEW,
    ),
    Row(
        "changes that are not read over",
        DATABASE_SESSION,
        {"    elif session.autoflush and not": "    elif not"},
        READ_ANEW,
    ),
    Row(
        "no session without async with",
        DATABASE_SESSION,
        {
            "    over: str = _NOT_BEGUN": '    over: str = ""',
            "        if self.sync_session.over != _NOT_BEGUN:": "        if False:",
        },
        HABITS + "test_a_session_is_opened_with_async_with",
    ),
    Row(
        "no success for an exception",
        DATABASE_SESSION,
        {"in range(400)": "in range(0)"},
        NOT_STORED,
    ),
    Row(
        "nothing given up by close()",
        DATABASE_SESSION,
        {"        elif self.uncommitted:": "        elif False:"},
        NOT_STORED,
    ),
    Row(
        "a session that its route may close",
        DATABASE_SESSION,
        {
            "        if self.over:\n            super().close()": "        if True:\n            super().close()"
        },
        HABITS + "test_what_is_stored_is_answered_so",
    ),
    Row(
        "one commit, the session's",
        DATABASE_SESSION,
        {"        connection.commit = _not_yours  # type: ignore[method-assign]\n": ""},
        NOT_STORED,
    ),
    Row(
        "409 for what somebody else has changed",
        FAILURES,
        {"    if isinstance(error, StaleDataError):": "    if False:"},
        HABITS + "test_somebody_elses_change_is_a_conflict",
    ),
    Row(
        "an answer for a failure in a middleware",
        PROBLEMS,
        {"    return _answer(failure, {": "    return _answer(Failure.UNKNOWN, {"},
        HABITS + "test_a_failure_in_a_middleware_is_answered_like_a_routes",
    ),
    Row(
        "no success for a COMMIT that was answered with ROLLBACK",
        CONNECTION,
        {'if status == "ROLLBACK" and': 'if status == "" and'},
        MISUSE + "test_an_error_that_a_route_swallows",
    ),
    Row(
        "no other transaction within a session's",
        CONNECTION,
        {'if self.lent_to == "session" and _ENDS.match(query):': "if False:"},
        MISUSE_TOO + "test_a_commit_that_stores_nothing_is_an_error",
    ),
    Row(
        "nothing that stays because the driver was told",
        CONNECTION,
        {"        self.refuse_what_lasts(query, row)\n": ""},
        MISUSE_TOO + "test_a_commit_that_stores_nothing_is_an_error",
    ),
    Row(
        "nothing that stays because of a parameter",
        DIALECT,
        {"driver.refuse_what_lasts(statement, parameters)": "pass"},
        MISUSE + "test_what_would_stay_for_whoever_comes_next",
    ),
    Row(
        "a pool for one event loop",
        POOL,
        {
            "        self._refuse_another_loop()\n        super().dispose()": "        super().dispose()"
        },
        MISUSE_TOO + "test_a_connection_in_another_event_loop",
    ),
    Row(
        "a connection for one event loop",
        CONNECTION,
        {"if asyncio.get_running_loop() is not self._loop:": "if False:"},
        MISUSE_TOO + "test_a_connection_in_another_event_loop",
    ),
    Row(
        "no connection whose BEGIN failed on its way",
        CONNECTION,
        {" or self._top_xact is not None:": ":"},
        MISUSE_TOO + "test_a_begin_that_fails_on_its_way",
    ),
    Row(
        "headers that come before the body",
        LIMITS,
        {'        self.scope["headers"] = list(self.headers)\n': ""},
        HOSTILE + "test_a_trailer_is_no_header",
    ),
    Row(
        "another connection after a ping that fails anyhow",
        DIALECT,
        {", asyncpg.InternalClientError\n": "\n"},
        SETTINGS_TOO + "test_a_ping_may_fail_in_the_driver_itself",
    ),
    Row(
        "no success for a COMMIT without a transaction",
        CONNECTION,
        {'if query.startswith("COMMIT") and not': "if not query and not"},
        MISUSE_TOO + "test_a_commit_that_stores_nothing_is_an_error",
    ),
    Row(
        "no statement of the driver's outside the session's transaction",
        DATABASE_SESSION,
        {'lent_to = "session"': 'lent_to = "anybody"'},
        MISUSE + "test_the_drivers_own_statements",
    ),
    Row(
        "no transaction that only the driver knows of",
        CONNECTION,
        {"if self.is_in_transaction() or self._top_xact": "if self._top_xact"},
        MISUSE_TOO + "test_a_transaction_of_the_drivers_is_not_left_open",
    ),
    Row(
        "no use of a connection that is back in the pool",
        CONNECTION,
        {'if self.lent_to == "nobody":': "if False:"},
        MISUSE_TOO + "test_a_transaction_of_the_drivers_is_not_left_open",
    ),
    Row(
        "no transaction as long as a WebSocket",
        DEPENDENCIES,
        {'if connection.scope["type"] == "websocket":': "if False:"},
        MISUSE + "test_a_websocket",
    ),
    Row(
        "computed values after a flush",
        "src/{package}/database/base.py",
        {'{"eager_defaults": True}': '{"eager_defaults": False}'},
        MISUSE + "test_orm_habits",
    ),
    Row(
        "no connection for as long as a request, for what only reads",
        DATABASE_SESSION,
        {
            "with self._engine.connect() as connection:\n            _lend_for_reading(connection)\n            if": (
                "connection = self._engine.connect()\n        if connection:\n            _lend_for_reading(connection)\n            if"
            )
        },
        MISUSE + "test_a_dependency_that_reads_holds_no_connection",
    ),
    Row(
        "a ping only for what was idle",
        DIALECT,
        {">= self.ping_after_idle": ">= 0"},
        "tests/pooler/test_trips.py::test_a_request_costs_no_more_trips_than_it_must",
    ),
    Row(
        "an engine that is disposed of",
        ENGINE,
        {"        await engine.dispose()": "        pass"},
        SESSION + "test_no_server_connection_remains_after_shutdown",
    ),
    Row(
        "the advisory lock",
        "migrations/env.py",
        {"pg_try_advisory_xact_lock(hashtext(:name))": "hashtext(:name)"},
        MIGRATIONS + "test_three_at_once",
    ),
    Row(
        "all of a revision that commits",
        "migrations/env.py",
        {"    connection.commit()\n": ""},
        MIGRATIONS + "test_a_revision_that_commits",
    ),
    Row(
        "to leave alone what no model knows",
        "migrations/env.py",
        {"        include_name=is_ours,\n": ""},
        MIGRATIONS + "test_what_no_model_knows_is_left_alone",
    ),
    Row(
        "to leave alone a table whose schema is named",
        "migrations/env.py",
        {"        include_object=is_compared,\n": ""},
        MIGRATIONS + "test_what_no_model_knows_is_left_alone",
    ),
    Row(
        "a login with no more rights than production's",
        "devstack/login.py",
        {"NOSUPERUSER NOBYPASSRLS": "SUPERUSER"},
        LOGGED_IN + "test_the_login_of_dev_is_an_ordinary_one",
    ),
    Row(
        "an ordinary login also where it was none before",
        "devstack/login.py",
        {"NOSUPERUSER NOBYPASSRLS": ""},
        LOGGED_IN + "test_the_login_of_dev_is_an_ordinary_one",
    ),
    Row(
        "the login's rights to the tables of models",
        "migrations/env.py",
        {"            let_login_in(connection, login)\n": "            pass\n"},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "the login's right to a table's numbers",
        "migrations/login.py",
        {" OR relkind = 'S' AND": " OR false AND"},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "the login's rights through Supavisor",
        "migrations/login.py",
        {'(user or "").rpartition(".")[0]': '""'},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "no right of the login's to a table with policies",
        "migrations/login.py",
        {" AND NOT relrowsecurity": ""},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "the login's right to what no model has",
        "migrations/login.py",
        {'opts.get("login")': "opts.get(login := None)"},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "the login's rights as a revision says",
        "migrations/login.py",
        {"UNION ALL SELECT attrelid": "UNION ALL SELECT 0::oid"},
        LOGGED_IN + "test_what_was_granted_stays_as_it_is",
    ),
    Row(
        "a login's right that is more than everybody's",
        "migrations/login.py",
        {"grantee <> 0 AND ": "grantee = 0 OR "},
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "commands that only look",
        "migrations/env.py",
        {' and "destination_rev" in options': ""},
        LOGGED_IN + "test_who_only_looks_grants_nothing",
    ),
    Row(
        "a right of what a later revision drops",
        "migrations/login.py",
        {
            "        _grant(op.get_bind(), login, right)": "        op.get_context().opts['later'] = right"
        },
        LOGGED_IN + "test_it_may_use_the_tables_of_models",
    ),
    Row(
        "what was refused, in the log",
        REPORT,
        {'        place["hint"] = denied[0]\n': "        pass\n"},
        LOGGED_IN + "test_the_log_says_what_was_refused",
    ),
    Row(
        "no empty revision",
        "migrations/env.py",
        {"        directives.clear()\n": ""},
        MIGRATIONS + "test_what_no_model_knows_is_left_alone",
    ),
    Row(
        "a default in a revision",
        "src/{package}/items/models.py",
        {
            "server_default=func.now(), onupdate": "server_default=text(\"now() + '1h'\"), onupdate",
            "Table, func": "Table, func, text",
        },
        MIGRATIONS + "test_the_models_are_what_the_migrations_make",
    ),
    Row(
        "a computed column in a revision, which Alembic does not compare",
        "src/{package}/items/models.py",
        {
            "description: Mapped[str | None]": 'description: Mapped[str | None] = mapped_column(Computed("name"))',
            "import BigInteger, Identity": "import BigInteger, Computed, Identity",
        },
        MIGRATIONS + "test_the_models_are_what_the_migrations_make",
    ),
    Row(
        "no unknown field in a change",
        "src/{package}/items/schemas.py",
        {'@with_config(ConfigDict(extra="forbid"))\n': ""},
        "tests/api/test_items.py::test_what_can_not_be_stored_is_a_422",
    ),
    Row(
        "what a schema that is too old needs",
        REPORT,
        {'_NOT_MIGRATED = ("42703", "42P01")': "_NOT_MIGRATED = ()"},
        MIGRATIONS + "test_a_service_says_that_it_is_not_migrated",
    ),
    Row(
        "PostgreSQL's advice on a failing revision",
        "migrations/env.py",
        {"{answer}\\n(SQLSTATE": "{answer.args[0]}\\n(SQLSTATE"},
        MIGRATIONS + "test_what_a_failing_revision_says",
    ),
    Row(
        "a failing revision without rows: DETAIL",
        "migrations/env.py",
        {"        answer.detail = None\n": "        pass\n"},
        MIGRATIONS + "test_what_a_failing_revision_says",
    ),
    Row(
        "a failing revision without rows: the message",
        "migrations/env.py",
        {"(Failure.INVALID, Failure.CONFLICT) and not": "() and not"},
        MIGRATIONS + "test_what_a_failing_revision_says",
    ),
    Row(
        "what to do about Alembic's errors",
        "migrations/env.py",
        {"re.search(pattern, words)": "False"},
        MIGRATIONS + "test_what_alembic_does_not_say",
    ),
    Row(
        "lock_timeout in a revision",
        "migrations/versions/0001_create_items.py",
        {
            "SET LOCAL lock_timeout = '5s'\")\n    op.drop": "SET lock_timeout = '5s'\")\n    op.drop"
        },
        MIGRATIONS + "test_every_revision_gives_up_on_a_lock",
    ),
    Row(
        "a migration that matches the models",
        "src/{package}/items/models.py",
        {"String(200)": "String(100)"},
        MIGRATIONS + "test_the_models_are_what_the_migrations_make",
    ),
    Row(
        "DATABASE_MIGRATION_URL",
        ENGINE,
        {
            # Where it is another server: the fixtures have one that migrates, too.
            "settings.database_migration_url or target": (
                "settings.database_migration_url if target.url.port != 1 else target"
            )
        },
        MIGRATIONS + "test_the_models_are_what_the_migrations_make",
    ),
    Row(
        "DATABASE_POOL_SIZE",
        ENGINE,
        {"settings.database_pool_size": "10"},
        SETTINGS + "test_pool_size_and_pool_timeout",
    ),
    Row(
        "DATABASE_POOL_TIMEOUT",
        ENGINE,
        {"settings.database_pool_timeout": "5"},
        SETTINGS + "test_pool_size_and_pool_timeout",
    ),
    Row(
        "DATABASE_MAX_OVERFLOW",
        ENGINE,
        {"settings.database_max_overflow": "0"},
        SETTINGS + "test_max_overflow",
    ),
    Row(
        "DATABASE_POOL",
        ENGINE,
        {'settings.database_pool == "queue"': "True"},
        SETTINGS + "test_a_null_pool_keeps_no_connection",
    ),
    Row(
        "DATABASE_POOL_RECYCLE",
        ENGINE,
        {"settings.database_pool_recycle": "1800"},
        SETTINGS + "test_pool_recycle",
    ),
    Row(
        "DATABASE_PING_AFTER_IDLE",
        ENGINE,
        {"settings.database_ping_after_idle": "30"},
        SETTINGS + "test_an_idle_connection_is_pinged_and_replaced",
    ),
    Row(
        "DATABASE_CONNECT_TIMEOUT",
        ENGINE,
        {'"timeout": settings.database_connect_timeout': '"timeout": 5'},
        SETTINGS + "test_connect_timeout",
    ),
    Row(
        "DATABASE_COMMAND_TIMEOUT",
        ENGINE,
        {"settings.database_command_timeout": "15"},
        SETTINGS + "test_command_timeout",
    ),
    Row(
        "a connection that is thrown away after a timeout",
        ENGINE,
        {
            "context.is_disconnect = True": "context.is_disconnect = not isinstance(error, TimeoutError)"
        },
        METERED_TOO + "test_a_failure_of_one_connection_is_none_of_the_others",
    ),
    Row(
        "a connection that the server has closed",
        DIALECT,
        {"if connection.is_closed():": "if False:"},
        SETTINGS + "test_a_connection_that_the_server_closed_is_replaced_without_a_ping",
    ),
    Row(
        "migrations without a time limit",
        ENGINE,
        {
            "None if migrations else settings.database_command_timeout": "settings.database_command_timeout"
        },
        MIGRATIONS + "test_a_migration_may_take_its_time",
    ),
    Row(
        "no parameters in the text of an error",
        ENGINE,
        {"hide_parameters=True, **pool": "**pool"},
        "tests/pooler/test_failures.py::test_the_text_of_an_error_has_no_parameters",
    ),
    Row(
        "no value of a request in the log",
        REPORT,
        {'error=f"{type(cause).__module__}.{type(cause).__name__}"': "error=str(vars(cause))"},
        WEB + "test_a_value_that_the_database_refuses_is_not_logged",
    ),
    Row(
        "no password in what is dumped of the settings",
        SETTINGS_PY,
        {", PlainSerializer(str)]": "]"},
        "tests/unit/test_settings.py::test_the_password_is_not_in_the_settings_text",
    ),
    Row(
        "no password in a validation error",
        SETTINGS_PY,
        {"hide_input_in_errors=True": "hide_input_in_errors=False"},
        "tests/unit/test_settings.py::test_the_password_is_not_in_pydantics_own_error_either",
    ),
    Row(
        "DATABASE_SSL_ROOT_CERT",
        SETTINGS_PY,
        {'info.data.get("database_ssl_root_cert")': "None"},
        "tests/pooler/test_tls.py::test_another_ca_is_refused",
    ),
    Row(
        "the host name in the certificate",
        URL,
        {'mode != "verify-ca"': "False"},
        "tests/pooler/test_tls.py::test_another_host_name_is_refused_unless_verify_ca",
    ),
    Row(
        "LOG_LEVEL",
        LOGS,
        {"settings.log_level.upper()": '"INFO"'},
        SERVE + "test_the_log_has_its_level_and_no_local_variables",
    ),
    Row(
        "LOG_FORMAT",
        LOGS,
        {'settings.log_format == "json"': "True"},
        SERVE + "test_serve_says_once_why_it_cant_connect_and_goes_on",
    ),
    Row(
        "a request's id in the log",
        MAIN,
        {
            "    app.add_middleware(\n"
            "        CorrelationIdMiddleware, validator=lambda sent: bool(REQUEST_ID.fullmatch(sent))\n"
            "    )\n": ""
        },
        SERVE + "test_workers_have_pools_of_their_own_and_one_log",
    ),
    Row(
        "503 for a pool that is exhausted",
        FAILURES,
        {"    if isinstance(error, PoolTimeoutError):\n        return Failure.UNAVAILABLE\n": ""},
        WEB + "test_a_request_that_gets_no_connection_is_answered_503",
    ),
    Row(
        "503 for a server that is full",
        FAILURES,
        {'    "53": Failure.UNAVAILABLE,': '    "5_": Failure.UNAVAILABLE,'},
        "tests/service/test_failures.py::test_a_server_that_is_full",
    ),
    Row(
        "a wrong login that is not called busy",
        FAILURES,
        {'authentication failed": Failure.LOGIN': 'authentication failed": Failure.UNAVAILABLE'},
        "tests/pooler/test_failures.py::test_a_wrong_login_is_not_called_busy",
    ),
    Row(
        "a pause after a wrong login",
        CONNECT,
        {"time.monotonic() - refused[-1].at < SECOND_TRY": "False"},
        "tests/pooler/test_failures.py::test_a_wrong_login_is_not_tried_again_at_once",
    ),
    Row(
        "a new password tried at once",
        CONNECT,
        {" if it.login == _login(arguments)]": "]"},
        "tests/pooler/test_connect.py::test_a_new_token_is_tried_at_once",
    ),
    Row(
        "connections that wait for one that succeeds",
        CONNECT,
        {"while len(self._under_way) >= self._at_once:": "while False:"},
        CONNECTING + "test_a_rotation_under_load_sends_two_wrong_logins",
    ),
    Row(
        "no more logins under way than may be wrong",
        CONNECT,
        {"max(1, _WRONG_LOGINS - len(_refused(arguments)))": "10"},
        CONNECTING + "test_a_rotation_under_load_sends_two_wrong_logins",
    ),
    Row(
        "connections that are opened together",
        CONNECT,
        {"max(1, _WRONG_LOGINS - len(_refused(arguments)))": "1"},
        CONNECTING + "test_connections_are_opened_together_once_a_login_has_succeeded",
    ),
    Row(
        "a second try of a refused password",
        CONNECT,
        {"if len(refused) >= _WRONG_LOGINS or": "if refused or"},
        CONNECTING + "test_a_password_that_is_refused_once_is_tried_again",
    ),
    Row(
        "a second try of a refused password: serve and migrate",
        LOGIN,
        {
            "            await asyncio.sleep(connect.SECOND_TRY)\n"
            "            error = await _connect(engine)\n": "            pass\n"
        },
        CONNECTING + "test_a_command_tries_a_refused_password_once_more",
    ),
    Row(
        "fewer than ten logins of a pod that starts again and again",
        CONNECT,
        {"SECOND_TRY = 20": "SECOND_TRY = 10"},
        KUBERNETES + "test_a_wrong_password_locks_nobody_out",
    ),
    Row(
        "a wrong login that counts though nobody waits for it",
        CONNECT,
        {"await asyncio.shield(login)": "await login"},
        CONNECTING + "test_a_login_that_nobody_waits_for_any_more_counts",
    ),
    Row(
        "one count of wrong logins for all engines of a process",
        CONNECT,
        {
            "refused = _refused(arguments)": 'refused = _refused(arguments | {"port": id(self)})',
            "_login(arguments), error": '_login(arguments | {"port": id(self)}), error',
        },
        CONNECTING + "test_two_engines_of_one_process_send_no_more_than_one",
    ),
    Row(
        "a connection that is closed if nobody waits for it",
        CONNECT,
        {"            login.add_done_callback(_close)\n": ""},
        CONNECTING + "test_a_connection_that_nobody_waits_for_any_more_is_closed",
    ),
    Row(
        "one try of a password where the server may have TLS",
        CONNECT,
        {'in ("prefer", "allow") and': "in () and"},
        CONNECTING + "test_a_refused_password_is_not_sent_again_without_tls",
    ),
    Row(
        "why it can't connect, in the log",
        REPORT,
        {"dict(vars(cause)) if isinstance": "{} if isinstance"},
        "tests/pooler/test_connect.py::test_the_log_says_where_and_why",
    ),
    Row(
        "why it can't connect, when it starts",
        LOGIN,
        {
            "if log_failure(error) is Failure.LOGIN:": "if classify(error) is Failure.LOGIN:",
            "import Failure\n": "import Failure, classify\n",
        },
        SERVE + "test_serve_says_once_why_it_cant_connect_and_goes_on",
    ),
    Row(
        "a hint at IPv6",
        CONNECT,
        {"if _SUPABASE_DIRECT.fullmatch(host) else": "if False else"},
        CONNECTING + "test_a_host_that_has_only_ipv6",
    ),
    Row(
        "do_connect listeners of an owner",
        ENGINE,
        {
            '    event.listen(engine.sync_engine, "reset", _free_the_backend)\n': (
                '    event.listen(engine.sync_engine, "reset", _free_the_backend)\n'
                "    event.listen(\n"
                '        engine.sync_engine, "do_connect", lambda d, e, args, kw: d.connect(*args, **kw)\n'
                "    )\n"
            )
        },
        "tests/pooler/test_connect.py::test_an_owner_may_change_how_it_connects",
    ),
    Row(
        "the other connections, after a timeout",
        FAILURES,
        {"isinstance(error, OSError) and not isinstance(error, TimeoutError)": "True"},
        SETTINGS_TOO + "test_a_statement_that_timed_out_costs_one_connection",
    ),
    Row(
        "the other connections, after a ping that timed out",
        FAILURES,
        {"isinstance(error, OSError) and not isinstance(error, TimeoutError)": "True"},
        SETTINGS_TOO + "test_a_ping_that_timed_out_costs_one_connection",
    ),
    Row(
        "the other connections, after a pooler's refusal",
        ENGINE,
        {"    context.invalidate_pool_on_disconnect = all_broke(error)\n": ""},
        SETTINGS_TOO + "test_a_refusal_of_a_busy_pooler_costs_one_connection",
    ),
    Row(
        "another connection after a failover",
        ENGINE,
        {' or getattr(error, "sqlstate", None) == _READ_ONLY': ""},
        "tests/service/test_failures.py::test_a_standby_is_not_asked_again",
    ),
    Row(
        "classes of SQLSTATE",
        FAILURES,
        {'    "22": Failure.INVALID,': '    "22001": Failure.INVALID,'},
        "tests/pooler/test_failures.py::test_what_a_statement_can_meet",
    ),
    Row(
        "an outage that is no wrong login",
        FAILURES,
        {"ECIRCUITBREAKER\\) too many authentication failures": "ECIRCUITBREAKER\\)"},
        "tests/service/test_failures.py::test_what_supavisor_says",
    ),
    Row(
        "a pooler's own login that is not the service's",
        FAILURES,
        {"failure is Failure.LOGIN and error.statement is not None": "False"},
        "tests/service/test_failures.py::test_a_login_that_the_pooler_itself_is_refused",
    ),
    Row(
        "no value of a request in a traceback",
        LOGS,
        {"ExceptionRenderer(format_traceback)": "ExceptionRenderer()"},
        LATE,
    ),
    Row(
        "no value of a request in what tells of an error",
        ENGINE,
        {
            '        event.listen(engine.sync_engine, "handle_error", _hide_values)\n': "        pass\n"
        },
        LATE,
    ),
    Row(
        "a line for a failure after the answer has begun",
        PROBLEMS,
        {"        failure = log_failure(found)\n": "        pass\n"},
        LATE,
    ),
    Row(
        "1011 for a WebSocket whose database fails",
        PROBLEMS,
        {"websocket.close(1011)": "websocket.close(1000)"},
        LATE,
    ),
    Row(
        "1011 for a WebSocket that raises another error from the database's",
        PROBLEMS,
        {"    app.add_middleware(_WebSocketFailures)\n": ""},
        LATE,
    ),
    Row(
        "a failure in a TaskGroup that is answered as what it is",
        PROBLEMS,
        {"    if isinstance(error, ExceptionGroup) and": "    if False and"},
        LATE,
    ),
    Row(
        "one try of a password where the server has TLS",
        URL,
        {'"require" if host.endswith(_SUPABASE_HOSTS) else "prefer"': '"prefer"'},
        "tests/unit/test_url.py::test_supabase_is_asked_for_tls",
    ),
    Row(
        "a migration that tries the service's login",
        CLI,
        {"    asyncio.run(refuse_wrong_login(settings))\n    if settings": "    if settings"},
        "tests/api/test_serve.py::test_a_wrong_login_ends_every_command_with_a_hint",
    ),
    Row(
        "Supavisor's own codes",
        FAILURES,
        {"    _ANY_CODE: Failure.UNAVAILABLE,\n": ""},
        "tests/service/test_failures.py::test_what_supavisor_says",
    ),
    Row(
        "a SQLSTATE in the log for what is a defect",
        PROBLEMS,
        {"        failure = log_failure(found)\n": "        pass\n"},
        WEB + "test_a_wrong_statement_is_a_defect_too",
    ),
    Row(
        "a pooler's words in the log",
        REPORT,
        {"        pooler=pooler,\n": ""},
        "tests/service/test_failures.py::test_the_log_names_a_poolers_refusal",
    ),
    Row(
        "a README whose table of variables is that of the settings",
        "README.md",
        {"| `DATABASE_POOL_SIZE` | `10` |": "| `DATABASE_POOL_SIZE` | `5` |"},
        "tests/unit/test_documents.py::test_the_table_of_variables_is_that_of_the_settings",
    ),
    Row(
        "a runbook that has each failure",
        "docs/operations.md",
        {"| `55P03` |": "| `57014` |"},
        "tests/unit/test_documents.py::test_the_runbook_has_every_failure_that_is_told_apart",
    ),
    Row(
        "a runbook that has the messages of the code",
        "docs/operations.md",
        {"`Can't listen on ...`": "`Can not listen on ...`"},
        "tests/unit/test_documents.py::test_the_messages_of_the_runbook_are_in_the_code",
    ),
    Row(
        "a list that goes on",
        "docs/routes.md",
        {"books.where(Book.id > after)": "books"},
        ROUTES + "test_a_list_goes_on_after_its_last",
    ),
    Row(
        "an enum that is stored by value",
        "docs/routes.md",
        {"            values_callable=lambda states: [state.value for state in states],\n": ""},
        ROUTES + "test_columns_of_every_kind",
    ),
    Row(
        "an enum that a migration can be written for",
        "docs/routes.md",
        {"lambda states: [state.value for state in states]": "list"},
        ROUTES + "test_the_models_can_be_written_as_a_migration",
    ),
    Row(
        "a moment with an offset, and no number",
        "docs/routes.md",
        {"Annotated[AwareDatetime, BeforeValidator(_moment)]": "AwareDatetime"},
        ROUTES + "test_columns_of_every_kind",
    ),
    Row(
        "JSON that notices a change",
        "docs/routes.md",
        {"MutableDict.as_mutable(JSONB())": "JSONB()"},
        ROUTES + "test_json_is_changed_in_place",
    ),
    Row(
        "JSON that two change at once",
        "docs/routes.md",
        {", with_for_update=True": ""},
        ROUTES + "test_json_is_changed_in_place",
    ),
    Row(
        "an authentication that holds no connection",
        "docs/recipes.md",
        {"    session: ReadSessionDep, sent:": "    session: SessionDep, sent:"},
        ROUTES + "test_who_is_asking_is_known_and_holds_no_connection",
    ),
    Row(
        "no connection while another service is asked",
        "docs/recipes.md",
        {"title = await read.scalar(": "title = await session.scalar("},
        ROUTES + "test_nothing_is_held_while_another_service_is_asked",
    ),
    Row(
        "a look at what has changed meanwhile",
        "docs/recipes.md",
        {"Book.id == book_id, Book.title == title)": "Book.id == book_id)"},
        ROUTES + "test_nothing_is_held_while_another_service_is_asked",
    ),
    Row(
        "an insert that updates",
        "docs/recipes.md",
        {"{Book.lent: create.excluded.lent}": "{Book.title: create.excluded.title}"},
        ROUTES + "test_many_insert_or_update_one",
    ),
    Row(
        "code in the documents that does what they say",
        "docs/recipes.md",
        {"            async with session.begin_nested():\n": "            if True:\n"},
        ROUTES + "test_what_failed_in_a_savepoint_leaves_the_rest",
    ),
    Row(
        "pages that tell apart what is of one moment",
        "docs/recipes.md",
        {"tuple_(Loan.due_at, Loan.id) > (after_due, after_id)": "Loan.due_at > after_due"},
        ROUTES + "test_pages_by_a_moment_have_every_loan",
    ),
    Row(
        "reads at once",
        "docs/recipes.md",
        {
            "async def summarize(session: ReadSessionDep)": "async def summarize(session: SessionDep)"
        },
        ROUTES + "test_several_reads_at_once",
    ),
    Row(
        "a script that runs once at a time",
        "docs/recipes.md",
        {"        if await session.scalar(select(lock)):": "        if lock is not None:"},
        ROUTES + "test_a_script_does_its_work_once_at_a_time",
    ),
    Row(
        "an answer that has no body",
        PROBLEMS,
        {"if not is_body_allowed_for_status_code(error.status_code):": "if False:"},
        WEB + "test_an_answer_that_has_no_body_has_none",
    ),
    Row(
        "a worker that ends",
        "docs/recipes.md",
        {"signal.SIGTERM, stop.set)": "signal.SIGTERM, print)"},
        ROUTES + "test_a_worker_ends_when_it_is_told_to",
    ),
    Row(
        "jobs that are done once",
        "docs/recipes.md",
        {".values(due_at=func.now() + AGAIN)": ".values(due_at=func.now())"},
        ROUTES + "test_each_job_is_done_and_one_that_fails_stays",
    ),
    Row(
        "a job that stays until it is done",
        "docs/recipes.md",
        {
            "claim = update(Job).where(Job.id == first).values(due_at=func.now() + AGAIN)": "claim = delete(Job).where(Job.id == first)"
        },
        ROUTES + "test_each_job_is_done_and_one_that_fails_stays",
    ),
    Row(
        "a task that closes what it opened",
        ENGINE,
        {"        await engine.dispose()": "        pass"},
        ROUTES + "test_a_task_of_celery_has_a_loop_and_an_engine_of_its_own",
    ),
    Row(
        "DATABASE_POOL=null, for engines that outlive their loop",
        ENGINE,
        {'settings.database_pool == "queue"': "True"},
        ROUTES + "test_without_a_pool_an_engine_serves_several_loops",
    ),
    Row(
        "a worker that closes its engine",
        "docs/recipes.md",
        {'    await context["engine"].dispose()\n': "    pass\n"},
        ROUTES + "test_a_worker_of_one_loop_has_one_engine",
    ),
    Row(
        "a rule over several rows",
        "docs/recipes.md",
        {
            '                await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})\n': ""
        },
        ROUTES + "test_a_rule_over_several_rows_holds_by_trying_again",
    ),
    Row(
        "a retry after a deadlock",
        "docs/recipes.md",
        {'("40001", "40P01")': '("40001",)'},
        ROUTES + "test_a_deadlock_is_tried_again",
    ),
    Row(
        "a retry for what passes only",
        "docs/recipes.md",
        {" or sqlstate not in PASSING": ""},
        ROUTES + "test_tries_are_few_and_for_what_passes",
    ),
    Row(
        "a transaction for each message",
        "docs/recipes.md",
        {
            "    async for title in websocket.iter_text():\n        async with sessions.begin() as session:\n": (
                "    async with sessions.begin() as session:\n        async for title in websocket.iter_text():\n"
            ),
            '        await websocket.send_text("stored")': '            await websocket.send_text("stored")',
        },
        ROUTES + "test_each_message_of_a_websocket_is_stored",
    ),
    Row(
        "a temporary table that ends with its transaction",
        "docs/recipes.md",
        {" ON COMMIT DROP": ""},
        ROUTES + "test_many_rows_go_in_together_and_out_again",
    ),
    Row(
        "rows that are there already",
        "docs/recipes.md",
        {"add.on_conflict_do_nothing()": "add"},
        ROUTES + "test_many_rows_go_in_together_and_out_again",
    ),
    Row(
        "code in the README that runs",
        "README.md",
        {".values(lent=False)": ".values(lent=True)"},
        ROUTES + "test_the_routes_of_the_readme",
    ),
    Row(
        "an OSError that arrives as a database's failure",
        CONNECT,
        {"raise OperationalError(None, None, told) from error": "raise"},
        "tests/pooler/test_settings.py::test_connect_timeout",
    ),
    Row(
        "readiness that asks the database",
        "src/{package}/web/health.py",
        {'await session.execute(text("SELECT 1"))': "pass"},
        WEB + "test_alive_but_not_ready_without_a_database",
    ),
    Row(
        "problems without the exception's text",
        PROBLEMS,
        {
            "return _answer(failure, {": "return _respond(500, str(error), headers={",
        },
        WEB + "test_a_defect_is_answered_without_its_text",
    ),
    Row(
        "problems without the request's input",
        PROBLEMS,
        {'"message": detail["msg"]': '"message": str(detail)'},
        WEB + "test_an_invalid_body_is_named_but_not_repeated",
    ),
    Row(
        "every answer in the schema",
        MAIN,
        {'        responses=problems("4XX", "5XX"),\n': ""},
        "tests/api/test_schema.py::test_the_api_keeps_to_its_schema",
    ),
    Row(
        "metrics declared as text",
        MAIN,
        {", response_class=PlainTextResponse": ""},
        "tests/api/test_schema.py::test_the_api_keeps_to_its_schema",
    ),
    Row(
        "a limit for bodies",
        MAIN,
        {"    app.add_middleware(BodyLimit)\n": ""},
        WEB + "test_a_body_that_is_too_large_is_refused",
    ),
    Row(
        "a limit for bodies that is a problem, as FastAPI's own is not",
        MAIN,
        {
            "    app.add_middleware(BodyLimit)\n": "",
            "redirect_slashes=False": "redirect_slashes=False, max_body_size=2**20",
        },
        WEB + "test_a_body_that_is_too_large_is_refused",
    ),
    Row(
        "a limit for headers",
        CLI,
        {"            http=HeadLimit,\n": ""},
        HOSTILE + "test_a_flood_of_headers_is_cut_off",
    ),
    Row(
        "a limit for headers that is none for bodies",
        LIMITS,
        {
            "        self._unfinished = 0\n        super().on_body(body)": "        super().on_body(body)"
        },
        HOSTILE + "test_a_flood_of_headers_is_cut_off",
    ),
    Row(
        "a limit for headers that is one for each request",
        LIMITS,
        {
            "        self._unfinished = 0\n        super().on_message_complete": (
                "        super().on_message_complete"
            )
        },
        HOSTILE + "test_a_flood_of_headers_is_cut_off",
    ),
    Row(
        "no label that a client made up",
        MAIN,
        {"redirect_slashes=False": "redirect_slashes=True"},
        WEB + "test_metrics_have_no_label_that_a_client_made_up",
    ),
    Row(
        "no request id that a client made up",
        MAIN,
        {", validator=lambda sent: bool(REQUEST_ID.fullmatch(sent))": ""},
        WEB + "test_a_made_up_request_id_is_replaced",
    ),
    Row(
        "a short answer to many errors",
        PROBLEMS,
        {"error.errors()[:MAX_ERRORS]": "error.errors()"},
        HOSTILE + "test_hostile_json_is_a_short_problem",
    ),
    Row(
        "a short answer to a long key",
        PROBLEMS,
        {'[:MAX_TEXT],\n            "message"': ',\n            "message"'},
        HOSTILE + "test_hostile_json_is_a_short_problem",
    ),
    Row(
        "no worker without its parent",
        MAIN,
        {"parent := multiprocessing.parent_process()": "parent := None"},
        WORKERS + "test_workers_end_when_their_parent_is_killed",
    ),
    Row(
        "every method of the path in a 405",
        PROBLEMS,
        {"if error.status_code == 405": "if False"},
        WEB + "test_a_405_names_every_method_of_the_path",
    ),
    Row(
        "no method of another path in a 405",
        PROBLEMS,
        {"if route.path == path": "if path"},
        WEB + "test_a_405_names_every_method_of_the_path",
    ),
    Row(
        "the same title on every Python",
        PROBLEMS,
        {"Unprocessable Content": "Unprocessable Entity"},
        WEB + "test_an_invalid_body_is_named_but_not_repeated",
    ),
    Row(
        "no password in the log",
        ENGINE,
        {"url=str(target)": "url=target.url.render_as_string(hide_password=False)"},
        SERVE + "test_serve_says_once_why_it_cant_connect_and_goes_on",
    ),
    Row(
        "no password in an error",
        CONNECT,
        {
            "            told = CantConnectError(": '            reason += f"{arguments}"\n            told = CantConnectError('
        },
        SERVE + "test_alembic_does_not_tell_the_password",
    ),
    Row(
        "no password in --help",
        CLI,
        {'help="Address to listen on."': 'help=os.environ.get("DATABASE_URL", "")'},
        SERVE + "test_help_is_there_at_once_and_does_not_tell_the_password",
    ),
    Row(
        "no password in a defect's traceback",
        SETTINGS_PY,
        {
            "    log_level: Annotated": "    def __str__(self) -> str:\n        return str(self.database_url.url.password)\n\n    log_level: Annotated"
        },
        WEB + "test_a_defect_is_logged_without_the_password",
    ),
    Row(
        "no local variables in a traceback for people",
        LOGS,
        {
            "                structlog.processors.ExceptionRenderer(format_traceback),\n": "",
            "structlog.dev.plain_traceback": "structlog.dev.rich_traceback",
        },
        SERVE + "test_the_log_has_its_level_and_no_local_variables",
    ),
    Row(
        "no local variables in a traceback for machines",
        LOGS,
        {
            "structlog.processors.ExceptionRenderer(format_traceback)": (
                "structlog.processors.dict_tracebacks"
            )
        },
        SERVE + "test_the_log_has_its_level_and_no_local_variables",
    ),
    Row(
        "a password that does not move the host",
        URL,
        {'r"(?:([^@/?#]*)@)?': 'r"(?:(.*)@)?'},
        "tests/unit/test_url.py::test_a_password_that_would_move_the_host_is_refused",
    ),
    Row(
        "decoding of what was percent-encoded",
        URL,
        {'decoded = unquote(text, errors="strict")': "decoded = text"},
        "tests/service/test_url.py::test_any_text_survives",
    ),
    Row(
        "variables of other clients: TLS",
        URL,
        {'return mode, {"ssl": mode, "direct_tls": False}': "return mode, {}"},
        SETTINGS_TOO + "test_what_is_meant_for_other_clients_changes_nothing",
    ),
    Row(
        "variables of other clients: a password",
        URL,
        {'        connect_args["password"] = ""\n': "        pass\n"},
        SETTINGS_TOO + "test_what_is_meant_for_other_clients_changes_nothing",
    ),
    Row(
        "variables of other clients: which server",
        URL,
        {'    connect_args["target_session_attrs"] = "any"\n': ""},
        SETTINGS_TOO + "test_what_is_meant_for_other_clients_changes_nothing",
    ),
    Row(
        "no answer about one database for another",
        CONNECT,
        {'"password", "database")': '"password")'},
        "tests/pooler/test_failures.py::test_a_wrong_login_is_not_called_busy",
    ),
    Row(
        "a string that is pasted with its command",
        URL,
        {
            "(found := _WRAPPED.fullmatch(text)) is None": "(found := re.match(r'()', text)) is not None"
        },
        STRINGS + "test_what_is_pasted_along_is_taken_off",
    ),
    Row(
        "a placeholder that is named",
        URL,
        {"_PLACEHOLDER.fullmatch(text)": "text == '[YOUR-PASSWORD]'"},
        STRINGS + "test_a_placeholder_is_named",
    ),
    Row(
        "a way in for a password that looks like a placeholder",
        URL,
        {"_PLACEHOLDER.fullmatch(text)": "_PLACEHOLDER.fullmatch(unquote(text))"},
        STRINGS + "test_a_password_that_looks_like_a_placeholder_has_a_way_in",
    ),
    Row(
        "one host, in the query too",
        URL,
        {'if "," in host + port:': "if False:"},
        STRINGS + "test_refusals_name_the_problem_and_the_fix",
    ),
    Row(
        "a parameter that is not obeyed half",
        URL,
        {'"target_session_attrs": ("any"': '"target_session_attrs": ("any|read-write"'},
        STRINGS + "test_a_parameter_that_can_not_be_obeyed_is_refused",
    ),
    Row(
        "a word about what is dropped",
        URL,
        {"for name in query if name not in _OBEYED": "for name in ()"},
        STRINGS + "test_what_changes_nothing_is_dropped_and_told",
    ),
    Row(
        "a server that has to prove who it is, where asyncpg can not bind",
        URL,
        {'query.get("channel_binding") == "require"': "False"},
        TLS_TOO + "test_channel_binding_asks_who_answers",
    ),
    Row(
        "TLS without asking for it first",
        URL,
        {'"direct_tls": direct': '"direct_tls": False'},
        TLS_TOO + "test_tls_without_asking_for_it_first",
    ),
    Row(
        "the name of the protocol in TLS",
        URL,
        {'    context.set_alpn_protocols(["postgresql"])\n': ""},
        TLS_TOO + "test_tls_without_asking_for_it_first",
    ),
    Row(
        "a certificate of the client",
        URL,
        {"        if any(certificate):": "        if False:"},
        TLS_TOO + "test_a_certificate_of_the_client",
    ),
    Row(
        "a misspelt variable that is told",
        SETTINGS_PY,
        {"problems = _misspelt()": "problems: list[str] = []"},
        VARIABLES + "test_a_misspelt_variable_is_told_with_the_right_name",
    ),
    Row(
        "a variable of another program that stops nothing",
        SETTINGS_PY,
        {"cutoff=0.9": "cutoff=0.8"},
        VARIABLES + "test_variables_of_others_do_not_stop_the_service",
    ),
    Row(
        "a message about a file that can not be read",
        SETTINGS_PY,
        {"except OSError as error:": "except NotADirectoryError as error:"},
        VARIABLES + "test_an_env_file_of_another_user",
    ),
    Row(
        "an end to waiting for a body",
        LIMITS,
        {"asyncio.timeout(BODY_TIMEOUT)": "asyncio.timeout(None)"},
        HOSTILE + "test_a_body_that_stops_coming_gives_its_place_back",
    ),
    Row(
        "few requests ahead of their answers",
        LIMITS,
        {"MAX_AHEAD = 16": "MAX_AHEAD = 1_000_000"},
        HOSTILE + "test_a_flood_of_headers_is_cut_off",
    ),
    Row(
        "a transaction again for who writes after a read",
        ENGINE,
        {"    connection.autocommit = False\n": ""},
        "tests/pooler/test_reading.py::test_a_write_after_a_read_has_its_transaction",
    ),
    Row(
        "503 at once for what is too much at once",
        LIMITS,
        {"elif self.in_flight >= self.limit:": "elif False:"},
        LIMITED + "test_what_is_too_much_at_once_is_answered_503_at_once",
    ),
    Row(
        "probes that are answered under load too",
        LIMITS,
        {' or scope["path"] in self.exempt': ""},
        LIMITED + "test_what_is_too_much_at_once_is_answered_503_at_once",
    ),
    Row(
        "REQUESTS_PER_CONNECTION",
        MAIN,
        {"settings.requests_per_connection": "20"},
        LIMITED + "test_what_is_too_much_at_once_is_answered_503_at_once",
    ),
    Row(
        "the request's id in what is refused",
        PROBLEMS,
        {'(correlation_id.get() or "").encode()': 'b""'},
        LIMITED + "test_a_refusal_names_the_request_and_is_counted",
    ),
    Row(
        "a count of what is refused",
        LIMITS,
        {"            self.refused.inc()\n": ""},
        LIMITED + "test_a_refusal_names_the_request_and_is_counted",
    ),
    Row(
        "room beside streams",
        LIMITS,
        {'message["type"] == "http.response.start"': "False"},
        LIMITED + "test_streams_leave_room_for_others",
    ),
    Row(
        "no more places than there were, after streams",
        LIMITS,
        {"                    place.close()\n": "                    self._give_back(0, 0)\n"},
        LIMITED + "test_streams_leave_room_for_others",
    ),
    Row(
        "room beside background tasks",
        LIMITS,
        {'message["type"] == "http.response.start"': "False"},
        LIMITED + "test_background_tasks_leave_room_for_others",
    ),
    Row(
        "a place for whoever comes after a defect",
        LIMITS,
        {"        with ExitStack() as place:": "        if place := ExitStack():"},
        LIMITED + "test_a_defect_gives_its_place_back",
    ),
    Row(
        "an end to streams after SIGTERM",
        CLI,
        {"timeout_graceful_shutdown=GRACE_PERIOD": "timeout_graceful_shutdown=10"},
        "tests/service/test_limits.py::test_sigterm_ends_open_streams",
    ),
    Row(
        "connections that stay open while the refused wait",
        CLI,
        {"            timeout_keep_alive=KEEP_ALIVE,\n": ""},
        SERVE + "test_a_connection_may_be_idle_for_as_long_as_the_refused_wait",
    ),
    Row(
        "a --help that imports nothing",
        CLI,
        {"\nimport typer\n": "\nimport typer\nimport uvicorn\n"},
        SERVE + "test_help_is_there_at_once_and_does_not_tell_the_password",
    ),
    Row(
        "a place in the queue for whoever is refused",
        LIMITS,
        {"max(self.last, now) + self.pace": "max(self.last, now) + self.pace / 10"},
        "tests/service/test_limits.py::test_who_is_refused_comes_back_as_fast_as_others_are_served",
    ),
    Row(
        "a queue that moves as fast as requests are served, not as one is",
        LIMITS,
        {"max(in_flight, self.connections)": "self.connections"},
        "tests/service/test_limits.py::test_who_is_refused_comes_back_as_fast_as_others_are_served",
    ),
    Row(
        "a queue that empties with time",
        LIMITS,
        {"max(self.last, now) + self.pace": "(self.last or now) + self.pace"},
        "tests/service/test_limits.py::test_the_queue_of_the_refused_empties_with_time",
    ),
    Row(
        "a bound to Retry-After",
        LIMITS,
        {", now + LONGEST)": ", now + 60)"},
        "tests/service/test_limits.py::test_nobody_is_sent_away_for_long",
    ),
    Row(
        "refused clients that do not come back in step",
        LIMITS,
        {"wait *= random.uniform(0.5, 1)": "pass"},
        "tests/service/test_limits.py::test_nobody_is_sent_away_for_long",
    ),
    Row(
        "503 and nothing else while the pooler is away",
        CONNECT,
        {"raise OperationalError(None, None, told) from error": "raise"},
        "tests/api/test_faults.py::test_the_pooler_is_restarted",
    ),
    Row(
        "no failing request after a restart of the pooler that nobody noticed",
        DIALECT,
        {"if connection.is_closed():": "if False:"},
        "tests/api/test_faults.py::test_the_pooler_is_restarted",
    ),
    Row(
        "503 and nothing else while PostgreSQL is away",
        FAILURES,
        LOST,
        FAULTS + "test_postgresql_is_restarted_behind_the_pooler",
    ),
    Row(
        "503 for whoever was on a backend that is killed",
        FAILURES,
        LOST,
        FAULTS + "test_a_backend_is_killed",
    ),
    Row(
        "no acknowledged write is missing",
        DEPENDENCIES,
        {'Depends(_transaction, scope="function")': "Depends(_transaction)"},
        FAULTS + "test_a_backend_is_killed",
    ),
    Row(
        "an end to waiting for a backend that hangs",
        ENGINE,
        {"settings.database_command_timeout": "15"},
        FAULTS + "test_a_backend_hangs",
    ),
    Row(
        "nothing left of requests that were cancelled",
        DEPENDENCIES,
        {
            "    async with sessions.begin() as session:\n        yield session\n": (
                "    session = await sessions.begin().__aenter__()\n    _kept.append(session)\n"
                "    yield session\n    await session.__aexit__(None, None, None)\n"
            ),
            "\n\nasync def _transaction": "\n\n_kept = []\n\nasync def _transaction",
        },
        SESSION + "test_cancelled_requests_leave_nothing_behind",
    ),
    Row(
        "requests in flight are finished after SIGTERM",
        CLI,
        {"timeout_graceful_shutdown=GRACE_PERIOD": "timeout_graceful_shutdown=0"},
        "tests/api/test_faults.py::test_sigterm",
    ),
    Row(
        "exit code 0 after SIGTERM",
        CLI,
        {"    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n": ""},
        "tests/api/test_faults.py::test_sigterm",
    ),
    Row(
        "fewer connections of all pods than the pooler takes",
        AUTOSCALER,
        {"maxReplicas: 8": "maxReplicas: 16"},
        KUBERNETES + "test_the_connections_stay_below_the_poolers_client_limit",
    ),
    Row(
        "fewer connections of all pods than the pooler takes: the pool",
        DEPLOYMENT,
        {'value: "10"': 'value: "12"'},
        KUBERNETES + "test_the_connections_stay_below_the_poolers_client_limit",
    ),
    Row(
        "fewer connections of all pods than the pooler takes: workers",
        DEPLOYMENT,
        {
            "          env:\n": '          args: [serve, --host, 0.0.0.0, --workers, "2"]\n          env:\n'
        },
        KUBERNETES + "test_the_connections_stay_below_the_poolers_client_limit",
    ),
    Row(
        "fewer connections of all pods than the pooler takes: its limit",
        ".env.example",
        {"#POOLER_CLIENT_LIMIT=200": "#POOLER_CLIENT_LIMIT=171"},
        KUBERNETES + "test_the_connections_stay_below_the_poolers_client_limit",
    ),
    Row(
        "tune: a pooler that is smaller than the pool",
        TUNE,
        {"backends = held\n": "pass\n"},
        TUNED + "test_a_pooler_that_is_smaller_than_the_pool_is_named_as_the_limit",
    ),
    Row(
        "tune: a pooler in session mode",
        TUNE,
        {"most, why = held, SESSION_MODE": "why = SESSION_MODE"},
        TUNING + "test_a_session_mode_pooler_bounds_the_sizes",
    ),
    Row(
        "tune: no more connections than there are free",
        TUNE,
        {'"PostgreSQL has no more free": free': '"PostgreSQL has no more free": 10_000'},
        TUNING + "test_no_more_connections_than_postgresql_has_free",
    ),
    Row(
        "tune: connections that others use",
        BUDGET,
        {"datid IS NOT NULL AND usesysid IS NOT NULL": "datid IS NULL AND usesysid IS NOT NULL"},
        TUNING + "test_connections_of_others_are_not_free",
    ),
    Row(
        "tune: no statement that writes",
        TUNE,
        {'text("SET TRANSACTION READ ONLY")': 'text("SELECT 1")'},
        TUNING + "test_a_statement_that_writes_is_refused",
    ),
    Row(
        "tune: what was learnt before Ctrl-C",
        TUNE,
        {"except KeyboardInterrupt:": "except ZeroDivisionError:"},
        TUNING + "test_ctrl_c_keeps_what_was_learnt",
    ),
    Row(
        "tune: requests that take turns",
        POOL,
        {"    _queue_class = _Queue\n": ""},
        TUNING + "test_requests_take_turns",
    ),
    Row(
        "tune: an early end of what fails",
        LOAD,
        {"except PoolTimeoutError:": "except SQLAlchemyError:"},
        TUNING + "test_a_pool_that_fails_ends_early",
    ),
    Row(
        "tune: the smallest that is fast enough",
        SIZING,
        {"NEAR = 0.95": "NEAR = 1"},
        CHOOSING + "test_the_smallest_pool_that_is_fast_enough",
    ),
    Row(
        "tune: the time of the wait for a connection",
        SIZING,
        {"self.p99 <= target": "self.p50 <= target"},
        CHOOSING + "test_the_smallest_pool_that_is_fast_enough",
    ),
    Row(
        "tune: no size that the service would refuse",
        SIZING,
        {"< concurrency:\n        #": "< 0:\n        #"},
        CHOOSING + "test_what_was_measured_is_not_refused_by_the_service",
    ),
    Row(
        "fewer than ten logins of pods that start again with a wrong password",
        DEPLOYMENT,
        {"maxSurge: 1": "maxSurge: 2"},
        KUBERNETES + "test_a_wrong_password_locks_nobody_out",
    ),
    Row(
        "old pods until new ones are ready",
        DEPLOYMENT,
        {"maxUnavailable: 0": "maxUnavailable: 1"},
        KUBERNETES + "test_a_wrong_password_locks_nobody_out",
    ),
    Row(
        "one try of a migration",
        JOB,
        {"backoffLimit: 0": "backoffLimit: 6"},
        KUBERNETES + "test_a_wrong_password_locks_nobody_out",
    ),
    Row(
        "time to finish before Kubernetes kills",
        DEPLOYMENT,
        {"terminationGracePeriodSeconds: 35": "terminationGracePeriodSeconds: 30"},
        KUBERNETES + "test_requests_in_flight_get_to_finish",
    ),
    Row(
        "time to finish before Kubernetes kills: the code's",
        CLI,
        {"GRACE_PERIOD = 20": "GRACE_PERIOD = 25"},
        KUBERNETES + "test_requests_in_flight_get_to_finish",
    ),
    Row(
        "no restart for a database that is away",
        DEPLOYMENT,
        {
            "          livenessProbe:\n            httpGet:\n              path: /livez": (
                "          livenessProbe:\n            httpGet:\n              path: /readyz"
            )
        },
        KUBERNETES + "test_no_probe_restarts_a_service_for_its_database",
    ),
    Row(
        "a readiness probe that waits for the answer",
        "src/{package}/web/health.py",
        {"READINESS_TIMEOUT = 2": "READINESS_TIMEOUT = 3"},
        KUBERNETES + "test_no_probe_restarts_a_service_for_its_database",
    ),
    Row(
        "variables that the service knows",
        DEPLOYMENT,
        {"name: DATABASE_MAX_OVERFLOW": "name: DATABASE_OVERFLOW"},
        KUBERNETES + "test_every_variable_is_one_of_the_settings",
    ),
    Row(
        "no URL in a manifest",
        JOB,
        {
            "              valueFrom:\n"
            "                secretKeyRef:\n"
            "                  name: orders-api-database\n"
            "                  key: DATABASE_MIGRATION_URL\n"
            "                  optional: true\n": "              value: postgresql://u:p@h/d\n"
        },
        KUBERNETES + "test_urls_come_from_a_secret_that_is_not_here",
    ),
    Row(
        "a root file system that is read-only",
        DEPLOYMENT,
        {"readOnlyRootFilesystem: true": "readOnlyRootFilesystem: false"},
        KUBERNETES + "test_the_pods_pass_the_restricted_pod_security_standard",
    ),
    Row(
        "a migration that does not run as root",
        JOB,
        {"runAsNonRoot: true": "runAsNonRoot: false"},
        KUBERNETES + "test_the_pods_pass_the_restricted_pod_security_standard",
    ),
    Row(
        "no requests for the pod of a migration",
        "kubernetes/service/service.yaml",
        {
            "    app.kubernetes.io/component: service\n  ports": "  ports",
        },
        KUBERNETES + "test_the_pods_of_a_migration_get_no_requests",
    ),
    Row(
        "a way out to the pooler",
        "kubernetes/common/networkpolicy.yaml",
        {"port: 6543": "port: 6432"},
        KUBERNETES + "test_the_network_policy_lets_pods_out_to_the_pooler_and_in_to_the_service",
    ),
    Row(
        "the truth about the mode, of a pooler that takes the next backend in line",
        POOLER,
        {"for begins in (0, 1, 1):": "for begins in (0, 0, 0):"},
        EXAMINED + "test_the_mode_is_found_by_experiment",
    ),
    Row(
        "the truth about the mode, with two clients",
        POOLER,
        {"for begins in (0, 1, 1):": "for begins in (0, 1):"},
        EXAMINED + "test_the_migrations_url",
    ),
    Row(
        "the truth about the mode, where a pool is full",
        POOLER,
        {'return "session" if len(met[it]) == 1 else None': "return None"},
        EXAMINED + "test_the_mode_is_found_by_experiment",
    ),
    Row(
        "no setting that doctor leaves behind",
        POOLER,
        {'await there.run("RESET geqo_seed")': "pass"},
        EXAMINED + "test_nothing_is_left_behind",
    ),
    Row(
        "no statement that doctor leaves behind",
        POOLER,
        {"if await there.rows(mine, name):": "if False:"},
        EXAMINED + "test_nothing_is_left_behind",
    ),
    Row(
        "doctor's way around what another doctor has left",
        POOLER,
        {'name, value = f"doctor_{uuid4().hex}"': 'name, value = "doctor"'},
        EXAMINED + "test_what_another_doctor_has_left_is_in_nobodys_way",
    ),
    Row(
        "an end of the transaction in which a check of doctor failed",
        DOCTOR,
        {"        await patient.roll_back()\n": ""},
        EXAMINED + "test_a_check_that_fails_leaves_no_transaction_to_the_next",
    ),
    Row(
        "doctor's eye for a client that is moved, where a pool is full",
        POOLER,
        {"met[it].add(await asyncio.wait_for(it.hold(), PATIENCE))": "await it.hold()"},
        EXAMINED + "test_one_that_is_moved_where_a_pool_is_full_is_seen",
    ),
    Row(
        "doctor's word about TLS that takes its time",
        ADDRESS,
        {
            "        except TimeoutError:\n            told": "        except EOFError:\n            told"
        },
        EXAMINED + "test_tls_that_does_not_begin_is_no_answer",
    ),
    Row(
        "a table for tune that the login may read",
        LOAD,
        {' and "owner_id" not in it.c': ""},
        "tests/service/test_tune.py::test_a_table_of_others_is_not_the_load",
    ),
    Row(
        "no password in what doctor prints",
        ADDRESS,
        {"{target}{ignored}": "{target.url.render_as_string(hide_password=False)}{ignored}"},
        EXAMINED + "test_the_password_is_never_printed",
    ),
    Row(
        "an end of doctor, whatever hangs",
        DOCTOR,
        {"os._exit(LEVELS.index(found.level))": "sys.exit(LEVELS.index(found.level))"},
        EXAMINED + "test_it_ends_in_time_if_the_resolver_hangs",
    ),
    Row(
        "doctor's eye for names of statements",
        POOLER,
        {"named = bool(": "named = not ("},
        EXAMINED + "test_caches_of_statements_are_found",
    ),
    Row(
        "doctor's eye for a server that nobody verifies",
        ADDRESS,
        {"    if verifying is None:\n": "    if verifying == 0:\n"},
        EXAMINED + "test_tls_that_nobody_verifies_is_found",
    ),
    Row(
        "doctor's eye for another database",
        MIGRATIONS_CHECKS,
        {"if await patient.migrating.row(_DATABASE) != await": "if False and await"},
        EXAMINED + "test_the_migrations_url",
    ),
    Row(
        "a budget with workers in it",
        BUDGET,
        {"(2 * self.replicas + self.surge) * self.workers": "2 * self.replicas + self.surge"},
        EXAMINED + "test_a_pool_above_the_budget_is_found",
    ),
    Row(
        "a budget of as many replicas as there are",
        BUDGET,
        {'found = {"workers": 1,': 'found = {"replicas": 1, "workers": 1,'},
        EXAMINED + "test_without_manifests_nobody_knows_how_many_replicas_there_are",
    ),
    Row(
        "a budget without an autoscaler",
        BUDGET,
        {'elif "replicas" in deployment:': "elif False:"},
        "tests/service/test_budget.py::test_without_an_autoscaler_the_deployment_says_how_many",
    ),
    Row(
        "doctor's patience with the migrations' host",
        PATIENT,
        {' | {"timeout": STEP - 1}': ""},
        EXAMINED + "test_a_migrations_host_that_does_not_answer_is_not_called_busy",
    ),
    Row(
        "the other checks of doctor when one breaks",
        DOCTOR,
        {"except Exception as error:": "except TimeoutError as error:"},
        EXAMINED + "test_a_check_that_breaks_is_in_the_report",
    ),
    Row(
        "no words of an error that nobody knows",
        DOCTOR,
        {"{type(error).__name__} at": "{error!r} at"},
        EXAMINED + "test_a_check_that_breaks_costs_no_other_its_findings",
    ),
    Row(
        "tune: a table of others",
        LOAD,
        {" if it.schema is None and": " if"},
        "tests/service/test_tune.py::test_a_table_of_others_is_not_the_load",
    ),
    Row(
        "a service that does not pay for doctor",
        MAIN,
        {"import gc\n": "import gc\n\nimport orders_api.observe.doctor\n\n"},
        EXAMINED + "test_the_service_knows_nothing_of_it",
    ),
    Row(
        "a metric is called otherwise than the alerts call it",
        METRICS,
        {'_gauge("max"': '_gauge("limit"'},
        METERED + "test_what_is_watched_is_exported",
    ),
    Row(
        "who waits is not counted",
        METRICS,
        {"    _pending.inc()\n": ""},
        METERED + "test_the_pool_at_work",
    ),
    Row(
        "an invalid connection stays in use for ever",
        METRICS,
        {"        if not self._end(connection):\n            _idle.dec()\n": ""},
        METERED_TOO + "test_a_failure_is_counted_as_one",
    ),
    Row(
        "a recycled connection is taken for overflow",
        METRICS,
        {'reason = "recycled" if old else "surplus"': 'reason = "surplus"'},
        METERED_TOO + "test_a_recycled_connection_is_counted_as_one",
    ),
    Row(
        "what a killed worker had stays in the sums",
        METRICS,
        {
            "            mark_process_dead(pid)  # type: ignore[no-untyped-call]\n": "            pass\n"
        },
        WORKERS + "test_a_worker_that_was_killed_is_not_counted",
    ),
    Row(
        "nobody looks for held connections",
        METRICS,
        {"        if self._timer is None:\n            self._look_later()\n": ""},
        METERED + "test_a_held_connection_is_told_with_its_route",
    ),
    Row(
        "a long statement is taken for a held connection",
        METRICS,
        {"            if use.sent > use.answered:\n                continue\n": ""},
        METERED_TOO + "test_work_that_takes_long_is_no_idle_connection",
    ),
    Row(
        "a stream is taken for a held connection",
        METRICS,
        {"                use.answered = now\n": "                pass\n"},
        METERED_TOO + "test_work_that_takes_long_is_no_idle_connection",
    ),
    Row(
        "COPY is taken for a held connection",
        CONNECTION,
        {"with sent(self.use, method.__name__):": "if True:"},
        METERED_TOO + "test_work_that_takes_long_is_no_idle_connection",
    ),
    Row(
        "every request is logged",
        REQUESTS,
        {"else logging.DEBUG": "else logging.INFO"},
        METERED + "test_a_healthy_service_has_a_short_log",
    ),
    Row(
        "a request's statements are not counted",
        METRICS,
        {"            use.request.statements += statements\n": ""},
        METERED + "test_where_a_request_spent_its_time",
    ),
    Row(
        "a place in the line for a connection",
        POOL,
        {"    _queue_class = _Queue\n": ""},
        SETTINGS_TOO + "test_who_waits_for_a_connection_keeps_their_place",
    ),
    Row(
        "a line for a request that raises",
        REQUESTS,
        {"            if not ended:\n": "            if False:\n"},
        METERED + "test_the_line_of_a_request_that_did_not_end_well",
    ),
    Row(
        "no line for what is refused",
        LIMITS,
        {
            "            await refuse(send, self.tickets.take())": (
                "            structlog.get_logger().info('request', status=503, waited=0)\n"
                "            await refuse(send, self.tickets.take())"
            ),
            "import random\n": "import random\nimport structlog\n",
        },
        METERED + "test_what_is_refused_at_the_limit_writes_no_line",
    ),
    Row(
        "others that are not blamed for one connection's failure",
        METRICS,
        {
            "isinstance(error, InvalidatePoolError) or (error is not None and all_broke(error))": "True"
        },
        METERED_TOO + "test_a_failure_of_one_connection_is_none_of_the_others",
    ),
    Row(
        "a connection that left the pool is not in use",
        METRICS,
        {'"invalidate", "detach", "close"': '"invalidate", "close"'},
        METERED_TOO + "test_a_connection_that_leaves_the_pool_is_not_in_use",
    ),
    Row(
        "the service's tables are nobody's over the Data API",
        DATA_API,
        {'    event.listen(connection, "after_cursor_execute", close)\n': ""},
        CLOSED + "test_nothing_of_the_service_is_reached_by_mistake",
    ),
    Row(
        "SQL that is printed closes what it creates",
        DATA_API,
        {"    migration.impl.static_output = close  # type: ignore[method-assign]\n": ""},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "a sequence is closed to the Data API",
        DATA_API,
        {"'f', 'S')": "'f')"},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "a function with its owner's rights is closed",
        DATA_API,
        {"WHERE prosecdef AND": "WHERE false AND"},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "what a function creates is closed",
        DATA_API,
        {"import|select": "import"},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "service_role keeps what it has",
        DATA_API,
        {"('anon', 'authenticated')": "('anon', 'authenticated', 'service_role')"},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "what was there before is left alone",
        DATA_API,
        {"    known = ask(connection.connection.cursor())\n": '    known = "0,"\n'},
        CLOSED + "test_what_a_revision_creates_is_closed",
    ),
    Row(
        "what a revision grants is granted",
        DATA_API,
        {"            known = ask(cursor)\n": ""},
        CLOSED + "test_a_revision_may_say_otherwise",
    ),
    Row(
        "a default that is NULL now is no difference",
        "migrations/env.py",
        {" IS NOT NULL": " IS NULL OR true"},
        MIGRATIONS + "test_a_default_that_is_null_now_is_no_difference",
    ),
    Row(
        "no database of another service",
        "migrations/env.py",
        {"        on_version_apply=sign,\n": ""},
        MIGRATIONS + "test_the_database_of_another_service_is_refused",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_broken_guarantee_is_noticed(
    service: Service, copied: Project, given: dict[str, str], row: Row
) -> None:
    path = copied.path / row.file.format(package=copied.package)
    text = path.read_text()
    for old, new in row.replace.items():
        assert text.count(old) == 1, f"the patch does not fit any more: {old!r}"
        text = text.replace(old, new)
    path.write_text(text)

    result = run_copied(service, copied, "-qx", "-rf", "--tb=short", row.noticed_by, **given)

    assert result.returncode == 1, f"nobody noticed:\n{result.stdout[-4000:]}{result.stderr}"
    failed = re.findall(r"^FAILED (\S+?)(?:\[.*)?(?: - .*)?$", result.stdout, re.MULTILINE)
    assert set(failed) == {row.noticed_by}, result.stdout[-4000:]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (ASYNCPG_CACHE, ASYNCPG_CACHE, "nobody noticed"),
        (ASYNCPG_CACHE, "        no Python\n", "nobody noticed"),
        ("no such text", "", "the patch does not fit any more"),
    ],
)
def test_a_row_that_takes_no_guarantee_away_fails(
    service: Service, copied: Project, given: dict[str, str], old: str, new: str, told: str
) -> None:
    """A patch without effect, one after which nothing works, and one for code that has changed."""
    row = Row(told, ENGINE, {old: new}, STATEMENTS + "test_executemany_repeated_on_one_connection")
    with pytest.raises(AssertionError, match=told):
        test_a_broken_guarantee_is_noticed(service, copied, given, row)


def test_a_copy_is_tested_with_no_other_copys_code(
    service: Service, copied: Project, given: dict[str, str]
) -> None:
    """All of them run in forks of one process."""
    test = STATEMENTS + "test_executemany_repeated_on_one_connection"
    path = copied.path / ENGINE.format(package=copied.package)
    text = path.read_text()
    codes = []
    for one in (text.replace(ASYNCPG_CACHE, ""), text, text.replace(ASYNCPG_CACHE, "")):
        path.write_text(one)
        codes.append(run_copied(service, copied, "-q", test, **given).returncode)
    assert codes == [1, 0, 1]
