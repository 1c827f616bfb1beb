"""What people said of a prompt version's outputs, and the outputs that they said it of."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE prompt_reviews (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    task              text NOT NULL,
    prompt            text NOT NULL,
    version           text NOT NULL,
    prompt_sha256     text NOT NULL,
    baseline_version  text,
    baseline_sha256   text,
    created_by        text NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_reviews_baseline_whole
        CHECK ((baseline_version IS NULL) = (baseline_sha256 IS NULL))
);
CREATE UNIQUE INDEX prompt_reviews_of_content
    ON prompt_reviews (prompt, prompt_sha256, task, coalesce(baseline_sha256, ''));

CREATE TABLE prompt_review_samples (
    review          uuid NOT NULL,
    number          integer NOT NULL,
    source          text NOT NULL,
    input           jsonb NOT NULL,
    input_sha256    text NOT NULL,
    candidate_left  boolean NOT NULL,
    candidate_job   uuid,
    baseline_job    uuid,
    candidate       jsonb,
    baseline        jsonb,
    CONSTRAINT prompt_review_samples_pkey PRIMARY KEY (review, number),
    CONSTRAINT prompt_review_samples_review_fkey FOREIGN KEY (review)
        REFERENCES prompt_reviews (id) ON DELETE CASCADE,
    CONSTRAINT prompt_review_samples_number_positive CHECK (number > 0),
    CONSTRAINT prompt_review_samples_source_known CHECK (source IN ('sample', 'file', 'job'))
);
CREATE UNIQUE INDEX prompt_review_samples_once ON prompt_review_samples (review, input_sha256);

CREATE TABLE prompt_verdicts (
    id                     bigint GENERATED ALWAYS AS IDENTITY,
    review                 uuid NOT NULL,
    sample                 integer NOT NULL,
    reviewer               text NOT NULL,
    verdict                text NOT NULL,
    baseline_unacceptable  boolean NOT NULL DEFAULT false,
    blind                  boolean NOT NULL,
    note                   text NOT NULL DEFAULT '',
    created_at             timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_verdicts_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_verdicts_sample_fkey FOREIGN KEY (review, sample)
        REFERENCES prompt_review_samples (review, number) ON DELETE CASCADE,
    CONSTRAINT prompt_verdicts_verdict_known
        CHECK (verdict IN ('better', 'same', 'worse', 'unacceptable', 'acceptable'))
);
CREATE INDEX prompt_verdicts_latest ON prompt_verdicts (review, sample, reviewer, id);
"""

DOWNGRADE = "DROP TABLE prompt_verdicts, prompt_review_samples, prompt_reviews;"


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
