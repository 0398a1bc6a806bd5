"""Sessions: one for each request, job or script."""

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

Sessions = async_sessionmaker[AsyncSession]


def session_maker(engine: AsyncEngine) -> Sessions:
    """Make sessions of `engine`.

    `async with sessions.begin() as session:` is one transaction: it takes a connection at the first
    statement and not before, commits at the end, and rolls back on any error.
    """
    # Without expire_on_commit=False, reading an attribute after the commit is one more query, which
    # asyncio can't do behind an attribute (MissingGreenlet).
    return async_sessionmaker(engine, expire_on_commit=False)
