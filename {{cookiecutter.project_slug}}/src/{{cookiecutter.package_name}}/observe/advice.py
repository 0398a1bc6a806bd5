"""What to do about an error of the database, in a sentence: docs/operations.md has all of it."""

import re

from sqlalchemy.exc import DBAPIError

from {{ cookiecutter.package_name }}.observe.findings import Finding, failure

UNKNOWN = "docs/operations.md lists what the database may answer"

# A pattern and what to do, if it is in "SQLSTATE message". The first that is found counts.
_ADVICE = {
    "the name is unknown": "check the host's spelling in the URL",
    "the name can't be resolved": "the resolver of this machine does not answer: check its DNS",
    "nothing listens there": "check host and port, and that the server runs",
    "no answer within": "check host and port, firewalls and allowed networks, and that the project is not paused",
    "no route to it": "use a host with an IPv4 address, or give this machine IPv6",
    "certificate is refused": "use the name that the certificate is for, and its CA (DATABASE_SSL_ROOT_CERT)",
    "it offers no TLS": "turn on TLS at the server, or take sslmode and the CA file away",
    "before the login was over": "is that a PostgreSQL or a pooler, and on this port?",
    r"\(EMAXCONNSESSION\)": "this port is session mode, a server connection for each: use the transaction port, 6543",
    r"\(EMAXCONN\)|no more connections allowed": (
        "the pooler has no place for another client: lower DATABASE_POOL_SIZE, replicas or workers, "
        "or raise its client limit"
    ),
    "^53300": "PostgreSQL has no place for another connection: connect through the pooler, or lower the pooler's pool",
    r"\(ECHECKOUTTIMEOUT\)|query_wait_timeout|statement not answered in time": (
        "all the pooler's server connections are busy, or PostgreSQL hangs: look for long "
        "transactions in pg_stat_activity"
    ),
    r"\(ENOTFOUND\)|Tenant or user not found": (
        "no such project at this host: copy the string from the dashboard again (aws-0 and aws-1 "
        "differ), and see that the project is not paused"
    ),
    r"\(ENOIDENTIFIER\)|\(EINVALIDUSERINFO\)|\(EMULTIPLEUSERS\)": "the user has to be postgres.PROJECTREF",
    r"\(EBANNED\)|\(EADDRNOTALLOWED\)": "see the project's settings: it is banned, or does not let this address in",
    r"\(ESSLREQUIRED\)|SSL required": "add sslmode=require to the URL",
    r"\(EAUTHQUERY\) user not found": "the role does not exist: create it, or copy the string again",
    r"\(EAUTHQUERY\) (no auth_query|unsupported|MD5|authentication query returned|failed to parse)": (
        "the pooler can't check passwords of this role: set its password again, as SCRAM"
    ),
    r"\(ECIRCUITBREAKER\) too many authentication": (
        "ten wrong passwords came from this address: stop what sends them, wait for 120 s"
    ),
    r"server login|server conn crashed|\(EAUTHSECRETS\)|\(EAUTHQUERY\)|\(ECIRCUITBREAKER\)": (
        "the database behind the pooler is out of reach, whatever the password: see its status"
    ),
    r"\(EAUTHTIMEOUT\)": "the login took too long: this machine is short of CPU, or the network slow",
    "no such user": "check the user in the URL: the pooler does not know it",
    "no such database|^3D|database .* does not exist": "check the last part of the URL: there is no such database",
    "^28|authentication failed": (
        "check user and password. Stop whatever tries again by itself: ten wrong passwords make "
        "Supavisor block everybody at this address"
    ),
    "unsupported startup parameter": "take it out of the URL, or add it to PgBouncer's ignore_startup_parameters",
    "statement pooling mode": "the pooler is in statement mode, which refuses transactions: pool_mode = transaction",
    r"\(EMAXPREPARED|\(EPSSIMPLEQUERY\)|^26000|^42P05|^0A000": (
        "named prepared statements, which this pooler does not keep: leave both caches of "
        "database/engine.py at 0"
    ),
    r"\((ESTARTUPMESSAGE|ESTARTUPPACKETTOOLARGE|EAUTHPROTOCOL)\)|bind message": (
        "a message that PostgreSQL's protocol does not have: what stands between here and the pooler?"
    ),
    r"\(ESSLHANDSHAKE\)": "TLS failed on the pooler's side: is that TLS at all, on this port?",
    r"\(E[A-Z]+\)": "Supavisor is moving the project, or short of something: it passes, or else ask its operator",
    "^08": "the database behind the pooler is out of reach, whatever the password: see its status",
    "^57014": "the server cancelled it: see statement_timeout, and what else is running",
    "^57": "the server shuts down or starts up: try again in a minute",
    "^53": "the server has no memory or disk left: see its status",
    "^25|^HV|^58030": "the server only reads, ends transactions early, or lost a disk: see its status",
    "^40|^55P03": "others hold locks on the same rows: try again",
    "^42501": "GRANT the role what it may do",
    "^42": "the schema is older than the code: run `migrate`",
}


def explain(error: BaseException) -> Finding:
    """A failure that says what was answered, and what to do."""
    cause = (isinstance(error, DBAPIError) and error.driver_exception) or error
    sqlstate = getattr(cause, "sqlstate", None)
    text = str(getattr(cause, "message", None) or cause).strip()
    text = re.sub(r"^<class '[^']+'>: ", "", text)
    if isinstance(cause, TimeoutError) and not text:
        text = "the login was accepted, and then a statement not answered in time"
    told = f"{sqlstate} {text}" if sqlstate else text
    found = (advice for pattern, advice in _ADVICE.items() if re.search(pattern, told))
    return failure(told, next(found, UNKNOWN), sqlstate=sqlstate)
