"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

${"import sqlalchemy as sa" if "sa." in (upgrades or "") + (downgrades or "") else ""}
from alembic import op
${imports or ""}
revision: str = ${repr(up_revision)}
down_revision: str | tuple[str, ...] | None = ${repr(down_revision)}
branch_labels: str | None = ${repr(branch_labels)}
depends_on: str | None = ${repr(depends_on)}


def upgrade() -> None:
    # Give up rather than queue behind a long transaction: every query behind us would queue too.
    op.execute("SET LOCAL lock_timeout = '5s'")
    ${upgrades or ""}


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    ${downgrades or ""}
