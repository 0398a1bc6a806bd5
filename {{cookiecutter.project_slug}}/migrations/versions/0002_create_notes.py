"""create notes, which only their owner sees

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

# Who is asking. '' is what a setting is on a server connection that somebody had it on before.
CALLER = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"


def upgrade() -> None:
    # Give up rather than queue behind a long transaction: every query behind us would queue too.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(
        "DO $$ BEGIN CREATE ROLE authenticated NOLOGIN NOINHERIT; "
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    op.create_table(
        "notes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner_id", sa.Uuid(), server_default=sa.text(CALLER), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("notes_pkey")),
    )
    op.create_index(op.f("notes_owner_id_id_idx"), "notes", ["owner_id", "id"])
    op.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE notes FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY notes_owner ON notes TO authenticated "
        f"USING (owner_id = (SELECT {CALLER})) WITH CHECK (owner_id = (SELECT {CALLER}))"
    )
    op.execute("GRANT SELECT, DELETE ON notes TO authenticated")
    op.execute("GRANT INSERT (text), UPDATE (text) ON notes TO authenticated")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("notes")
