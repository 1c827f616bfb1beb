"""What a database role needs for its part, as a script for people to read and run.

A producer may call `enqueue_job` and `job_status`, and read its own rows. Row-level security is
switched on by the first producer's script and not before: where everybody who may read a table may
read all of it, nothing changes. One permissive policy then lets all roles do what their grants
allow, and a restrictive one holds each producer to the rows of its service; the tables' owner is
subject to neither.

Each script ends by looking at what the role can do now, by whatever way, and takes everything back
if that is more than it should.
"""

from __future__ import annotations

from psycopg import sql
from sqlalchemy import Connection, text

from worker.errors import InvalidInput
from worker.storage.models import Base

#: What a producer reads, each by its column `service`.
OWN_ROWS = ("jobs", "results", "usage")
_READABLE = ("alerts", "budget_windows", "budgets", "results", "usage")
_EVERYBODY = "claude_jobs_everybody"
_FUNCTIONS = ("enqueue_job", "job_status")

_VIEWS = text("""
SELECT viewname FROM pg_views
WHERE schemaname = current_schema()
  AND (starts_with(viewname, 'prompt_') OR starts_with(viewname, 'usage_')
       OR viewname = 'budget_status')
ORDER BY 1
""")

_BEGIN = """\
-- {title}
-- Run it as the owner of the tables, with psql -v ON_ERROR_STOP=1; it may be run again at any time.
BEGIN;
SET LOCAL lock_timeout = '5s';  -- rather fail than make the queue wait behind somebody's long query
SET LOCAL search_path = pg_catalog;
SET LOCAL client_min_messages = warning;

GRANT USAGE ON SCHEMA {schema} TO {role};
REVOKE ALL ON {tables} FROM {role};
REVOKE ALL ON FUNCTION {functions} FROM {role};
GRANT SELECT ON {readable} TO {role};
"""

_PRODUCE = """\
GRANT EXECUTE ON FUNCTION {functions} TO {role};
"""

# The policy is named by the role's number. Were it named like the role, the script for a new role
# with the name that another one had before it was renamed would drop that one's policy, and so show
# it everybody's rows.
_OWN_ROWS = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS {everybody} ON {table};
CREATE POLICY {everybody} ON {table} USING (true);
DO $own$
DECLARE policy text := 'claude_jobs_of_' || (SELECT oid FROM pg_roles WHERE rolname = {role_name});
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS %I ON %s', policy, {table_name});
    EXECUTE format('CREATE POLICY %I ON %s AS RESTRICTIVE TO %I USING (service = current_user)',
                   policy, {table_name}, {role_name});
END $own$;
"""

# Whatever the role can do: of its own, through PUBLIC, or as any role that it may become.
_CHECK = """
DO $check$
DECLARE
    actors oid[] := ARRAY(SELECT oid FROM pg_roles WHERE pg_has_role({role_name}, oid, 'MEMBER'));
    excess text;
BEGIN
    SELECT string_agg(DISTINCT what, ', ' ORDER BY what) INTO excess FROM (
        SELECT 'ALL, as a superuser or past row-level security' AS what
        FROM pg_roles WHERE oid = ANY(actors) AND (rolsuper OR rolbypassrls)
        UNION ALL
        SELECT format('%s on %s', privilege, relation)
        FROM unnest(actors) AS actor, unnest({tables_listed}::regclass[]) AS relation,
             unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
        WHERE has_any_column_privilege(actor, relation, privilege)
          AND NOT (privilege = 'SELECT' AND relation = ANY({readable_listed}::regclass[]))
        UNION ALL
        SELECT format('%s on %s', privilege, relation)
        FROM unnest(actors) AS actor, unnest({tables_listed}::regclass[]) AS relation,
             unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) AS privilege
        WHERE has_table_privilege(actor, relation, privilege)
        UNION ALL
        SELECT format('EXECUTE on %s', function)
        FROM unnest(actors) AS actor, unnest({functions_listed}::regproc[]) AS function
        WHERE has_function_privilege(actor, function, 'EXECUTE') AND NOT {may_execute}
    ) AS found;
    IF excess IS NOT NULL THEN
        RAISE EXCEPTION 'nothing was granted: % could do more than it should: %',
            {role_name}, left(excess, 500)
            USING HINT = 'Revoke that from it, from PUBLIC, or from the roles it is a member of.';
    END IF;
END $check$;
COMMIT;
"""


_SUBJECT = text("SELECT row_security_active('jobs')")


def is_held_to_policies(connection: Connection) -> bool:
    """Whether row-level security applies to whoever asks: a worker's statements are then slower.

    An expression index is not used in its order below a policy, not even one that lets all pass.
    """
    return bool(connection.execute(_SUBJECT).scalar_one())


def producer_script(connection: Connection, role: str) -> str:
    """SQL that lets `role` enqueue jobs and read its own rows, and nothing else of ours.

    Raises:
        InvalidInput: no role can have that name, or it means more than one role.
    """
    title = (
        "claude-jobs grants producer: may call enqueue_job and job_status, and read its own rows"
    )
    return _script(connection, role, title, OWN_ROWS, produces=True)


def reader_script(connection: Connection, role: str) -> str:
    """SQL that lets `role` read results, usage, alerts, budgets and prompts, and nothing else.

    Raises:
        InvalidInput: no role can have that name, or it means more than one role.
    """
    prompts = [name for name in sorted(Base.metadata.tables) if name.startswith("prompt_")]
    readable = (*_READABLE, *prompts, *connection.execute(_VIEWS).scalars())
    title = "claude-jobs grants reader: may read results, usage, alerts, budgets and prompts"
    return _script(connection, role, title, readable, produces=False)


def _script(
    connection: Connection, role: str, title: str, readable: tuple[str, ...], *, produces: bool
) -> str:
    if not role.isprintable() or not 0 < len(role.encode(errors="replace")) <= 63:
        raise InvalidInput(f"role {role!r}: a name has 1 to 63 bytes and no control characters")
    # Even in quotes, "public" means everybody to GRANT.
    if role in ("public", "none", _EVERYBODY) or role.startswith("pg_"):
        raise InvalidInput(f"role {role!r} is none of a single service or person")
    schema = connection.execute(text("SELECT current_schema()")).scalar_one()

    def qualified(names: tuple[str, ...]) -> list[sql.Identifier]:
        return [sql.Identifier(schema, name) for name in names]

    def listed(names: list[sql.Identifier]) -> sql.Composable:
        texts = [sql.Literal(name.as_string()) for name in names]
        return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(texts))

    views = tuple(connection.execute(_VIEWS).scalars())
    tables = qualified((*sorted(Base.metadata.tables), *views))
    functions = qualified(_FUNCTIONS)
    values = {
        "title": sql.SQL(title),
        "schema": sql.Identifier(schema),
        "everybody": sql.Identifier(_EVERYBODY),
        "role": sql.Identifier(role),
        "role_name": sql.Literal(role),
        "tables": sql.SQL(", ").join(tables),
        "tables_listed": listed(tables),
        "readable": sql.SQL(", ").join(qualified(readable)),
        "readable_listed": listed(qualified(readable)),
        "functions": sql.SQL(", ").join(functions),
        "functions_listed": listed(functions),
        "may_execute": sql.SQL("true" if produces else "false"),
    }
    parts = [sql.SQL(_BEGIN).format(**values)]
    if produces:
        parts.append(sql.SQL(_PRODUCE).format(**values))
        parts += [
            sql.SQL(_OWN_ROWS).format(
                table=each, table_name=sql.Literal(each.as_string()), **values
            )
            for each in qualified(OWN_ROWS)
        ]
    parts.append(sql.SQL(_CHECK).format(**values))
    return sql.Composed(parts).as_string()
