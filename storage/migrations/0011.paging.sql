-- One page a cause. The outbox becomes what the pager has to decide; what it decides, what is told
-- and to whom stands in tables of its own. Runs alike on PostgreSQL and TimescaleDB; the readings
-- are not touched. Stop the pagers before.

-- What workers and people say of alerts, in order.
ALTER TABLE outbox
    ADD COLUMN at         timestamptz,                      -- event time, or when a person said so
    ADD COLUMN actor      text NOT NULL DEFAULT 'worker',
    ADD COLUMN decided_at timestamptz;
ALTER TABLE outbox DROP CONSTRAINT outbox_event_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_event_check
    CHECK (event IN ('firing', 'resolved', 'stale', 'back', 'acknowledged'));
UPDATE outbox o
SET at = CASE event WHEN 'firing' THEN a.opened_at ELSE coalesce(a.resolved_at, o.created_at) END,
    -- Alerts that are open are told once more, by their causes; what is over stays as it was.
    decided_at = CASE WHEN a.state = 'resolved'
                      THEN coalesce(o.delivered_at, o.abandoned_at, now()) END
FROM alert a WHERE a.alert_id = o.alert_id;
-- With a default for workers that are not of this version yet.
ALTER TABLE outbox ALTER COLUMN at SET NOT NULL, ALTER COLUMN at SET DEFAULT now();
-- An alert fires and is resolved once. It may become stale more often.
ALTER TABLE outbox DROP CONSTRAINT outbox_dedup_key_event_key;
CREATE UNIQUE INDEX outbox_once ON outbox (dedup_key, event) WHERE event IN ('firing', 'resolved');
CREATE UNIQUE INDEX outbox_moved ON outbox (dedup_key, event, at)
    WHERE event NOT IN ('firing', 'resolved');
CREATE INDEX outbox_alert ON outbox (alert_id);
ALTER TABLE outbox
    DROP COLUMN next_attempt_at, DROP COLUMN attempts, DROP COLUMN claimed_until,
    DROP COLUMN delivered_at, DROP COLUMN abandoned_at, DROP COLUMN last_error;
CREATE INDEX outbox_undecided ON outbox (outbox_id) WHERE decided_at IS NULL;

-- One row. Its lock lets one pager decide at a time, and its revision tells the others that what
-- they remember is old.
CREATE TABLE pager_turn (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    revision   bigint NOT NULL DEFAULT 0,
    shift      jsonb,
    wakes_at   timestamptz,
    decider    text NOT NULL DEFAULT '',   -- who decided last, and may do so next
    decided_at timestamptz
);
INSERT INTO pager_turn DEFAULT VALUES;

-- What the pager remembers of alerts that are not over, or were not long ago (paging/state.py).
CREATE TABLE page_track (
    alert_id uuid PRIMARY KEY REFERENCES alert,
    body     jsonb NOT NULL
);

-- Alerts of one cause. `body` is what the pager remembers, the rest is for readers.
CREATE TABLE page_group (
    group_key       text PRIMARY KEY,
    cause           text NOT NULL,
    cause_name      text NOT NULL,
    route           text NOT NULL,
    policy          text NOT NULL,
    labels          jsonb NOT NULL,
    severity        text,
    opened_at       timestamptz NOT NULL,
    told_at         timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    closed_at       timestamptz,
    body            jsonb NOT NULL
);
CREATE INDEX page_group_open ON page_group (opened_at) WHERE closed_at IS NULL;
CREATE INDEX page_group_told ON page_group (told_at);

CREATE TABLE page_member (
    group_key text NOT NULL REFERENCES page_group,
    alert_id  uuid NOT NULL REFERENCES alert,
    joined_at timestamptz NOT NULL,
    PRIMARY KEY (group_key, alert_id)
);
CREATE INDEX page_member_alert ON page_member (alert_id);

-- What each stage said, for whoever asks why; `trail` is the stages before it with their reasons.
CREATE TABLE decision (
    decision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    alert_id    uuid,
    group_key   text,
    stage       text NOT NULL,
    outcome     text NOT NULL,
    reason      text NOT NULL,
    until       timestamptz,
    trail       jsonb NOT NULL
);
CREATE INDEX decision_alert ON decision (alert_id) WHERE alert_id IS NOT NULL;
CREATE INDEX decision_group ON decision (group_key) WHERE group_key IS NOT NULL;
CREATE INDEX decision_at ON decision (at);

-- What is told of a group (paging/notices.py), and to whom. A receiver that sees a key twice has
-- seen one delivery.
CREATE TABLE notice (
    notice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_key text NOT NULL,
    revision  integer NOT NULL,
    event     text NOT NULL CHECK (event IN ('trigger', 'update', 'acknowledge', 'resolve')),
    at        timestamptz NOT NULL,
    payload   jsonb NOT NULL,
    UNIQUE (group_key, revision)
);
CREATE INDEX notice_at ON notice (at);

CREATE TABLE delivery (
    delivery_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    notice_id       bigint NOT NULL REFERENCES notice,
    key             text NOT NULL UNIQUE,
    group_key       text NOT NULL,
    event           text NOT NULL,
    step            integer NOT NULL,
    hook            text NOT NULL,
    person          text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempts        integer NOT NULL DEFAULT 0,
    claimed_until   timestamptz,
    delivered_at    timestamptz,
    abandoned_at    timestamptz,
    heeded_at       timestamptz,   -- when the pager went on to the next step for it
    last_error      text
);
CREATE INDEX delivery_pending ON delivery (hook, next_attempt_at)
    WHERE delivered_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX delivery_unheeded ON delivery (delivery_id)
    WHERE abandoned_at IS NOT NULL AND heeded_at IS NULL;
CREATE INDEX delivery_group ON delivery (group_key, hook, delivery_id);
CREATE INDEX delivery_notice ON delivery (notice_id);
CREATE INDEX delivery_delivered ON delivery (delivered_at) WHERE delivered_at IS NOT NULL;

-- Who is not to be told of what, from when to when.
CREATE TABLE silence (
    silence_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind       text NOT NULL DEFAULT 'silence' CHECK (kind IN ('silence', 'maintenance')),
    match      jsonb NOT NULL,
    begins_at  timestamptz NOT NULL DEFAULT now(),
    ends_at    timestamptz NOT NULL,
    comment    text NOT NULL,
    author     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    lifted_at  timestamptz,
    lifted_by  text,
    CHECK (ends_at > begins_at)
);
CREATE INDEX silence_present ON silence (ends_at);

-- Who stands in for whoever's turn it is.
CREATE TABLE oncall_override (
    override_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    rotation    text NOT NULL,
    person      text NOT NULL,
    begins_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    author      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    lifted_at   timestamptz,
    CHECK (ends_at > begins_at)
);
CREATE INDEX oncall_override_present ON oncall_override (ends_at);

-- What people thought of a page.
CREATE TABLE page_mark (
    group_key  text NOT NULL REFERENCES page_group,
    author     text NOT NULL,
    is_false   boolean NOT NULL,
    comment    text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_key, author)
);

-- Pages that somebody asks for to see whether they come.
CREATE TABLE page_test (
    test_id    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    policy     text NOT NULL,
    author     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz
);
CREATE INDEX page_test_undecided ON page_test (created_at) WHERE decided_at IS NULL;

CREATE TABLE api_token (
    token_id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL UNIQUE,
    role       text NOT NULL CHECK (role IN ('viewer', 'responder', 'admin')),
    hash       bytea NOT NULL UNIQUE,   -- SHA-256 of a token of 256 random bits
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- Ring for the pagers of this schema: there is something to decide.
CREATE FUNCTION ring_pagers() RETURNS void
LANGUAGE sql SET search_path FROM CURRENT
AS $function$
    SELECT pg_notify(current_schema() || '_outbox', '')
$function$;

-- Somebody has an alert. Returns whether it was open: of one that is over, or had already, nothing
-- changes.
CREATE FUNCTION acknowledge_alert(of_alert uuid, by_whom text, why text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $function$
BEGIN
    UPDATE alert SET state = 'acknowledged' WHERE alert_id = of_alert AND state IN ('open', 'stale');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO alert_transition (alert_id, at, state, cause, actor)
    VALUES (of_alert, clock_timestamp(), 'acknowledged', why, by_whom);
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at, actor)
    SELECT of_alert, 'acknowledged', of_alert::text, '{}', clock_timestamp(), by_whom
    WHERE EXISTS (SELECT FROM outbox WHERE alert_id = of_alert AND event = 'firing');
    PERFORM ring_pagers();
    RETURN true;
END
$function$;

-- As before (migration 0006), by what the pager decided and told instead of by pages of alerts.
CREATE OR REPLACE PROCEDURE expire_but_shadows(job_id integer, config jsonb)
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $procedure$
DECLARE
    day constant interval := INTERVAL '1 day';
    pages_before constant timestamptz := now() - (config ->> 'pages')::integer * day;
    alerts_before constant timestamptz := now() - (config ->> 'alerts')::integer * day;
    gone text[];
BEGIN
    PERFORM expire_readings(now() - (config ->> 'readings')::integer * day, config -> 'sources')
    WHERE config ? 'readings';
    PERFORM expire_ledger(now() - (config ->> 'ledger')::integer * day)
    WHERE config ? 'ledger';
    -- The letter stays, because the audit counts it.
    UPDATE dead_letter SET payload = NULL
    WHERE payload IS NOT NULL AND received_at < now() - (config ->> 'payloads')::integer * day;
    -- What was told of a cause that is over goes as a whole, once nothing is to be told any more.
    gone := ARRAY(
        SELECT group_key FROM page_group g
        WHERE closed_at < greatest(pages_before, alerts_before)
          AND NOT EXISTS (SELECT FROM delivery d WHERE d.group_key = g.group_key
                          AND d.delivered_at IS NULL AND d.abandoned_at IS NULL));
    DELETE FROM delivery WHERE group_key = ANY (gone);
    DELETE FROM notice WHERE group_key = ANY (gone);
    DELETE FROM page_mark WHERE group_key = ANY (gone);
    DELETE FROM page_member WHERE group_key = ANY (gone);
    DELETE FROM page_group WHERE group_key = ANY (gone);
    DELETE FROM decision d
    WHERE d.at < pages_before
      AND NOT EXISTS (SELECT FROM page_group g WHERE g.group_key = d.group_key)
      AND NOT EXISTS (SELECT FROM page_track t WHERE t.alert_id = d.alert_id);
    DELETE FROM page_test WHERE decided_at < pages_before;
    DELETE FROM silence WHERE ends_at < pages_before;
    DELETE FROM oncall_override WHERE ends_at < pages_before;
    -- Of an alert that is over and decided, all of it at once: the pager needs the first of it.
    DELETE FROM outbox o USING alert a
    WHERE a.alert_id = o.alert_id AND a.state = 'resolved' AND a.resolved_at < pages_before
      AND NOT EXISTS (SELECT FROM page_track t WHERE t.alert_id = o.alert_id)
      AND NOT EXISTS (SELECT FROM outbox p
                      WHERE p.alert_id = o.alert_id AND p.decided_at IS NULL);
    WITH ended AS (
        SELECT alert_id FROM alert a
        WHERE state = 'resolved' AND resolved_at < alerts_before
          AND NOT EXISTS (SELECT FROM page_track t WHERE t.alert_id = a.alert_id)
          AND NOT EXISTS (SELECT FROM page_member m WHERE m.alert_id = a.alert_id)
          AND NOT EXISTS (SELECT FROM outbox p
                          WHERE p.alert_id = a.alert_id AND p.decided_at IS NULL)
    ), pages AS (
        DELETE FROM outbox o USING ended WHERE o.alert_id = ended.alert_id
    ), transitions AS (
        DELETE FROM alert_transition t USING ended WHERE t.alert_id = ended.alert_id
    )
    DELETE FROM alert a USING ended WHERE a.alert_id = ended.alert_id;
END
$procedure$;
