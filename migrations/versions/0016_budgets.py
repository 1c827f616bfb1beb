"""Spending budgets: how many dollars calls may cost in a day or a month (UTC).

Every change of what is reserved and spent happens in the functions below, under one advisory lock
and in the transaction that changes the reservations it stands for. So the sums of `budget_windows`
and the rows of `budget_reservations` cannot part, whoever dies when; and what was spent can be
counted anew from `usage` at any time. The functions run one after the other over the whole fleet:
workers ask for many calls at once, and not at all while no budget could concern a call.

The functions have their caller's rights: whoever may not write the tables changes nothing by them.

`usage.assumed_cost_usd` is what a budget counts for a call that may have been billed and of which
no reply came. It has no default: Postgres does not rewrite the table.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# No foreign key for reservations: it would lock the budget's row once for each of them.
TABLES = """
CREATE TABLE budgets (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope       text NOT NULL,
    name        text NOT NULL DEFAULT '',
    period      text NOT NULL,
    lane        text,
    amount_usd  numeric(18, 8) NOT NULL,
    hard        boolean NOT NULL,
    alert_at    smallint[] NOT NULL DEFAULT '{80,100}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL,
    counted_at  timestamptz,
    CONSTRAINT budgets_scope_known CHECK (scope IN ('all', 'task', 'user', 'model')),
    CONSTRAINT budgets_period_known CHECK (period IN ('day', 'month')),
    CONSTRAINT budgets_lane_known CHECK (lane IN ('interactive', 'batch')),
    CONSTRAINT budgets_only_all_is_nameless CHECK ((scope = 'all') = (name = '')),
    CONSTRAINT budgets_amount_is_dollars CHECK (amount_usd >= 0 AND amount_usd < 10000000000)
);
CREATE UNIQUE INDEX budgets_once ON budgets (scope, name, period, lane) NULLS NOT DISTINCT;

CREATE TABLE budget_windows (
    budget_id     bigint NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    subject       text NOT NULL,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    spent_usd     numeric(18, 8) NOT NULL DEFAULT 0,
    reserved_usd  numeric(18, 8) NOT NULL DEFAULT 0,
    calls         bigint NOT NULL DEFAULT 0,
    needed_usd    numeric(18, 8),
    alerted       smallint[] NOT NULL DEFAULT '{}',
    exhausted_at  timestamptz,
    CONSTRAINT budget_windows_pkey PRIMARY KEY (budget_id, starts_at, subject)
) WITH (fillfactor = 50);
CREATE INDEX budget_windows_by_end ON budget_windows (ends_at);
CREATE INDEX budget_windows_short ON budget_windows (budget_id, starts_at)
    WHERE needed_usd IS NOT NULL;

CREATE TABLE budget_reservations (
    usage_id    bigint NOT NULL,
    budget_id   bigint NOT NULL,
    subject     text NOT NULL,
    starts_at   timestamptz NOT NULL,
    usd         numeric(18, 8),
    CONSTRAINT budget_reservations_pkey PRIMARY KEY (usage_id, budget_id)
);

ALTER TABLE usage ADD COLUMN assumed_cost_usd numeric(14, 8);
"""

# A name covers the dated versions of its model; '*' is each task, user or model on its own.
MATCHING = r"""
CREATE FUNCTION budgets_of(task text, user_id text, model text, lane text)
RETURNS TABLE (id bigint, subject text, starts_at timestamptz, ends_at timestamptz,
               amount_usd numeric, hard boolean)
LANGUAGE sql STABLE
AS $function$
    SELECT b.id, named.subject, date_trunc(b.period, now(), 'UTC'),
           (date_trunc(b.period, now() AT TIME ZONE 'UTC') + ('1 ' || b.period)::interval)
               AT TIME ZONE 'UTC',
           b.amount_usd, b.hard
    FROM budgets AS b
    CROSS JOIN LATERAL (
        SELECT CASE b.scope WHEN 'all' THEN '' WHEN 'task' THEN $1 WHEN 'user' THEN $2
                            ELSE regexp_replace($3, '-\d{8}$', '') END AS subject
    ) AS named
    WHERE named.subject IS NOT NULL AND b.name IN (named.subject, '*')
      AND (b.lane IS NULL OR b.lane = $4)
$function$;
"""

# `percent`, `left_usd` and `held` as of now: a window that is over has no say, without anybody's
# having to close it. A call needs room for what it is expected to cost; what the last refused one
# needed must be there again before others are tried.
STATUS = """
CREATE VIEW budget_status AS
SELECT b.id, b.scope, b.name, b.period, b.lane, b.hard, b.amount_usd, b.alert_at,
       coalesce(w.subject, b.name) AS subject,
       CASE b.scope WHEN 'all' THEN 'all' ELSE b.scope || ':' || coalesce(w.subject, b.name) END
           || ' per ' || b.period || coalesce(' (' || b.lane || ')', '') AS label,
       span.starts_at, span.ends_at,
       coalesce(w.spent_usd, 0) AS spent_usd, coalesce(w.reserved_usd, 0) AS reserved_usd,
       greatest(b.amount_usd - coalesce(w.spent_usd + w.reserved_usd, 0), 0) AS left_usd,
       round(100 * coalesce(w.spent_usd + w.reserved_usd, 0) / nullif(b.amount_usd, 0), 1)
           AS percent,
       coalesce(w.calls, 0) AS calls,
       b.hard AND (w.subject IS NOT NULL OR b.name <> '*') AND (
           coalesce(w.spent_usd + w.reserved_usd, 0) >= b.amount_usd
           OR w.spent_usd + w.reserved_usd + w.needed_usd > b.amount_usd IS TRUE) AS held,
       w.needed_usd, w.alerted, w.exhausted_at, b.created_at, b.changed_at, b.changed_by
FROM budgets AS b
CROSS JOIN LATERAL (
    SELECT date_trunc(b.period, now(), 'UTC') AS starts_at,
           (date_trunc(b.period, now() AT TIME ZONE 'UTC') + ('1 ' || b.period)::interval)
               AT TIME ZONE 'UTC' AS ends_at
) AS span
LEFT JOIN budget_windows AS w ON w.budget_id = b.id AND w.starts_at = span.starts_at;
"""

# The same for one job, which is looked up by key however many users have a window. A job that is
# not to run before the window ends is not held.
HOLDING = """
CREATE FUNCTION budgets_holding(
    task text, user_id text, model text, lane text, run_at timestamptz
) RETURNS TABLE (id bigint, label text, amount_usd numeric, spent_usd numeric, reserved_usd numeric,
               ends_at timestamptz)
LANGUAGE sql STABLE
AS $function$
    SELECT b.id,
           CASE b.scope WHEN 'all' THEN 'all' ELSE b.scope || ':' || of_job.subject END
               || ' per ' || b.period || coalesce(' (' || b.lane || ')', ''),
           b.amount_usd, coalesce(w.spent_usd, 0), coalesce(w.reserved_usd, 0), of_job.ends_at
    FROM budgets_of($1, $2, $3, $4) AS of_job
    JOIN budgets AS b ON b.id = of_job.id
    LEFT JOIN budget_windows AS w
      ON (w.budget_id, w.starts_at, w.subject) = (b.id, of_job.starts_at, of_job.subject)
    WHERE b.hard AND $5 < of_job.ends_at
      AND (coalesce(w.spent_usd + w.reserved_usd, 0) >= b.amount_usd
           OR w.spent_usd + w.reserved_usd + w.needed_usd > b.amount_usd)
$function$;
"""

# Of a call that ended without a reply nobody knows what it cost. Where it may have been billed it
# counts as what was reserved for it, and its row says so.
BOOK = """
CREATE FUNCTION book_spending(ended bigint[]) RETURNS bigint
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_advisory_xact_lock(1668049506);
    WITH over AS (
        SELECT r.usage_id, r.budget_id,
               coalesce(u.cost_usd,
                        CASE WHEN u.outcome IN ('lost', 'timeout', 'connection_error',
                                                'interrupted')
                             THEN coalesce(r.usd, 0) ELSE 0 END) AS cost,
               u.cost_usd IS NULL AND NOT u.complete
                   AND u.outcome IN ('lost', 'timeout', 'connection_error', 'interrupted')
                   AS assumed,
               u.id IS NOT NULL AS made
        FROM budget_reservations AS r LEFT JOIN usage AS u ON u.id = r.usage_id
        WHERE (ended IS NULL OR r.usage_id = ANY(ended))
          AND (u.id IS NULL OR u.finished_at IS NOT NULL)
    ), gone AS (
        DELETE FROM budget_reservations AS r USING over
        WHERE r.usage_id = over.usage_id AND r.budget_id = over.budget_id
        RETURNING r.budget_id, r.subject, r.starts_at, r.usd, over.cost, over.made
    ), noted AS (
        UPDATE usage SET assumed_cost_usd = guess.cost
        FROM (SELECT usage_id, max(cost) AS cost FROM over WHERE assumed GROUP BY 1) AS guess
        WHERE usage.id = guess.usage_id
    ), booked AS (
        UPDATE budget_windows AS w
        SET reserved_usd = w.reserved_usd - sums.usd, spent_usd = w.spent_usd + sums.cost,
            calls = w.calls + sums.unasked
        FROM (SELECT budget_id, subject, starts_at, coalesce(sum(usd), 0) AS usd,
                     sum(cost) AS cost, count(*) FILTER (WHERE made AND usd IS NULL) AS unasked
              FROM gone GROUP BY 1, 2, 3) AS sums
        WHERE (w.budget_id, w.starts_at, w.subject)
            = (sums.budget_id, sums.starts_at, sums.subject)
    )
    SELECT count(*) FROM gone;
$function$;
"""

# All at once where all of them fit, so that a budget's row is written once and not once a call.
# Otherwise one after the other: whether the next one fits depends on those before. Asked again for
# a call that has its reservation, nothing changes. One that is dearer than the whole budget is let
# through when it is the first of its window: it would wait for ever. What a refused call needed is
# kept, but no more than a few usual calls or a twentieth of the budget, so that one giant does not
# hold what is small.
RESERVE = """
CREATE FUNCTION reserve_spending(
    ended bigint[], calls bigint[], tasks text[], users text[], models text[], lanes text[],
    dollars numeric[]
) RETURNS TABLE (refused bigint, budget_id bigint, subject text, ends_at timestamptz, held boolean)
LANGUAGE plpgsql VOLATILE
AS $function$
#variable_conflict use_column
DECLARE
    wanted record;
    short  record;
    fit    boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(1668049506);
    PERFORM book_spending(ended);
    INSERT INTO budget_windows (budget_id, subject, starts_at, ends_at)
    SELECT DISTINCT b.id, b.subject, b.starts_at, b.ends_at
    FROM unnest(calls, tasks, users, models, lanes, dollars)
        AS w (call, task, user_id, model, lane, usd)
    CROSS JOIN LATERAL budgets_of(w.task, w.user_id, w.model, w.lane) AS b
    WHERE NOT EXISTS (
        SELECT FROM budget_windows AS known
        WHERE (known.budget_id, known.starts_at, known.subject) = (b.id, b.starts_at, b.subject));
    WITH asked AS MATERIALIZED (
        SELECT w.call, w.usd, b.id, b.subject, b.starts_at, b.amount_usd, b.hard
        FROM unnest(calls, tasks, users, models, lanes, dollars)
            AS w (call, task, user_id, model, lane, usd)
        CROSS JOIN LATERAL budgets_of(w.task, w.user_id, w.model, w.lane) AS b
        WHERE NOT EXISTS (SELECT FROM budget_reservations AS r
                          WHERE r.usage_id = w.call AND r.usd IS NOT NULL)
    ), sums AS (
        SELECT id, subject, starts_at, amount_usd, hard, sum(usd) AS usd, count(*) AS calls
        FROM asked GROUP BY 1, 2, 3, 4, 5
    ), judged AS (
        SELECT coalesce(bool_and(
                   NOT sums.hard
                   OR w.spent_usd + w.reserved_usd < sums.amount_usd
                      AND w.spent_usd + w.reserved_usd + sums.usd <= sums.amount_usd), true) AS fit
        FROM sums JOIN budget_windows AS w
          ON (w.budget_id, w.starts_at, w.subject) = (sums.id, sums.starts_at, sums.subject)
    ), taken AS (
        UPDATE budget_windows AS w
        SET reserved_usd = w.reserved_usd + sums.usd, calls = w.calls + sums.calls
        FROM sums, judged
        WHERE judged.fit
          AND (w.budget_id, w.starts_at, w.subject) = (sums.id, sums.starts_at, sums.subject)
    ), promised AS (
        INSERT INTO budget_reservations (usage_id, budget_id, subject, starts_at, usd)
        SELECT asked.call, asked.id, asked.subject, asked.starts_at, asked.usd
        FROM asked, judged WHERE judged.fit
        ON CONFLICT (usage_id, budget_id) DO UPDATE
        SET subject = excluded.subject, starts_at = excluded.starts_at, usd = excluded.usd
    )
    SELECT judged.fit INTO fit FROM judged;
    IF fit THEN
        RETURN;
    END IF;
    FOR wanted IN
        SELECT * FROM unnest(calls, tasks, users, models, lanes, dollars)
            AS w (call, task, user_id, model, lane, usd)
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM budget_reservations
                              WHERE usage_id = wanted.call AND usd IS NOT NULL);
        SELECT b.id, b.subject, b.starts_at, b.ends_at,
               least(wanted.usd, greatest(
                   b.amount_usd / 20,
                   3 * (w.spent_usd + w.reserved_usd) / greatest(w.calls, 1))) AS needed,
               b.amount_usd - w.spent_usd - w.reserved_usd AS room
        INTO short
        FROM budgets_of(wanted.task, wanted.user_id, wanted.model, wanted.lane) AS b
        JOIN budget_windows AS w
          ON (w.budget_id, w.starts_at, w.subject) = (b.id, b.starts_at, b.subject)
        WHERE b.hard
          AND (w.spent_usd + w.reserved_usd >= b.amount_usd
               OR w.spent_usd + w.reserved_usd + wanted.usd > b.amount_usd
                  AND w.spent_usd + w.reserved_usd > 0)
        ORDER BY b.ends_at DESC, b.id
        LIMIT 1;
        IF FOUND THEN
            UPDATE budget_windows AS w SET needed_usd = greatest(w.needed_usd, short.needed)
            WHERE (w.budget_id, w.starts_at, w.subject)
                = (short.id, short.starts_at, short.subject)
              AND greatest(w.needed_usd, short.needed) IS DISTINCT FROM w.needed_usd;
            refused := wanted.call;
            budget_id := short.id;
            subject := short.subject;
            ends_at := short.ends_at;
            held := short.room <= 0 OR short.room < short.needed;
            RETURN NEXT;
            CONTINUE;
        END IF;
        WITH taken AS (
            UPDATE budget_windows AS w
            SET reserved_usd = w.reserved_usd + wanted.usd, calls = w.calls + 1
            FROM budgets_of(wanted.task, wanted.user_id, wanted.model, wanted.lane) AS b
            WHERE (w.budget_id, w.starts_at, w.subject) = (b.id, b.starts_at, b.subject)
            RETURNING w.budget_id, w.subject, w.starts_at
        )
        INSERT INTO budget_reservations (usage_id, budget_id, subject, starts_at, usd)
        SELECT wanted.call, taken.budget_id, taken.subject, taken.starts_at, wanted.usd FROM taken
        ON CONFLICT (usage_id, budget_id) DO UPDATE
        SET subject = excluded.subject, starts_at = excluded.starts_at, usd = excluded.usd;
    END LOOP;
END
$function$;
"""

# From `usage` alone. A call has either a reservation or a place in the sum: both are read with the
# snapshot of one statement, and reservations change under the lock only. A call that was sent
# before the budget was known gets a reservation without an amount, so that it is booked when it
# ends.
COUNT = r"""
CREATE FUNCTION count_spending(budget bigint) RETURNS void
LANGUAGE sql VOLATILE
AS $function$
    SELECT pg_advisory_xact_lock(1668049506);
    SELECT book_spending(NULL);
    INSERT INTO budget_reservations (usage_id, budget_id, subject, starts_at, usd)
    SELECT u.id, b.id, b.subject, b.starts_at, NULL
    FROM usage AS u
    CROSS JOIN LATERAL budgets_of(
        u.task, u.user_id, u.model,
        CASE u.source WHEN 'batch' THEN 'batch' ELSE 'interactive' END) AS b
    WHERE u.outcome = 'in_flight' AND b.id = budget AND u.created_at >= b.starts_at
    ON CONFLICT DO NOTHING;
    WITH this AS (
        SELECT date_trunc(period, now(), 'UTC') AS starts_at FROM budgets WHERE id = budget
    ), ended AS (
        SELECT b.subject, b.starts_at, b.ends_at,
               sum(coalesce(u.cost_usd, u.assumed_cost_usd, 0)) AS usd, count(*) AS calls
        FROM this JOIN usage AS u ON u.created_at >= this.starts_at
        CROSS JOIN LATERAL budgets_of(
            u.task, u.user_id, u.model,
            CASE u.source WHEN 'batch' THEN 'batch' ELSE 'interactive' END) AS b
        WHERE b.id = budget AND u.finished_at IS NOT NULL AND u.source <> 'cache'
          AND NOT EXISTS (SELECT FROM budget_reservations AS r
                          WHERE r.usage_id = u.id AND r.budget_id = budget)
        GROUP BY 1, 2, 3
    ), open AS (
        SELECT r.subject, r.starts_at, sum(r.usd) AS usd, count(r.usd) AS calls
        FROM budget_reservations AS r JOIN this USING (starts_at)
        WHERE r.budget_id = budget GROUP BY 1, 2
    ), named AS (
        SELECT b.name AS subject, this.starts_at
        FROM budgets AS b, this WHERE b.id = budget AND b.name <> '*'
    ), found AS (
        SELECT subject, starts_at, ended.usd AS spent, open.usd AS reserved,
               coalesce(ended.calls, 0) + coalesce(open.calls, 0) AS calls
        FROM ended FULL JOIN open USING (subject, starts_at)
        FULL JOIN named USING (subject, starts_at)
    ), cleared AS (
        UPDATE budget_windows AS w SET spent_usd = 0, reserved_usd = 0, calls = 0
        FROM this
        WHERE w.budget_id = budget AND w.starts_at = this.starts_at
          AND w.subject NOT IN (SELECT subject FROM found)
    )
    INSERT INTO budget_windows AS w (budget_id, subject, starts_at, ends_at, spent_usd,
                                     reserved_usd, calls)
    SELECT budget, found.subject, found.starts_at,
           (date_trunc(b.period, now() AT TIME ZONE 'UTC') + ('1 ' || b.period)::interval)
               AT TIME ZONE 'UTC',
           coalesce(found.spent, 0), coalesce(found.reserved, 0), found.calls
    FROM found, budgets AS b WHERE b.id = budget
    ON CONFLICT (budget_id, starts_at, subject) DO UPDATE
    SET spent_usd = excluded.spent_usd, reserved_usd = excluded.reserved_usd,
        calls = excluded.calls;
$function$;
"""

DOWNGRADE = """
DROP FUNCTION count_spending, reserve_spending, book_spending, budgets_holding;
DROP VIEW budget_status;
DROP FUNCTION budgets_of;
DROP TABLE budget_reservations, budget_windows, budgets;
ALTER TABLE usage DROP COLUMN assumed_cost_usd;
"""


def upgrade() -> None:
    for statements in (TABLES, MATCHING, STATUS, HOLDING, BOOK, RESERVE, COUNT):
        op.execute(statements)


def downgrade() -> None:
    op.execute(DOWNGRADE)
