-- Which rules hold where, and what shadows find. Runs alike on PostgreSQL and TimescaleDB.

-- Rules of a partition from an offset of its log on; the newest row of a partition holds.
CREATE TABLE rules_applied (
    rules_applied_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic            text NOT NULL,
    partition        integer NOT NULL,
    log_id           text NOT NULL,
    message_offset   bigint NOT NULL,
    fingerprint      text NOT NULL,
    rules            jsonb NOT NULL,
    watermark        timestamptz,       -- event time up to which readings had come before
    recorded_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (topic, partition, log_id, message_offset)
);

-- What a shadow would have opened. No page can speak of it: `outbox` refers to `alert`.
CREATE TABLE shadow_alert (
    shadow      text NOT NULL,
    series_id   integer NOT NULL REFERENCES series,
    category    text NOT NULL CHECK (category IN ('city', 'sensor-health')),
    kind        text NOT NULL,
    opened_at   timestamptz NOT NULL,   -- event time
    closed_at   timestamptz,            -- event time, also of the end of the shadow
    seen        double precision NOT NULL,
    expected    double precision,
    lower       double precision,
    upper       double precision,
    score       double precision,
    sentence    text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shadow, series_id, category, opened_at)
);
CREATE UNIQUE INDEX shadow_alert_one_open ON shadow_alert (shadow, series_id, category)
    WHERE closed_at IS NULL;
CREATE INDEX shadow_alert_newest ON shadow_alert (shadow, opened_at);

-- Shadow alerts are kept for as long as alerts.
ALTER PROCEDURE expire(integer, jsonb) RENAME TO expire_but_shadows;
CREATE PROCEDURE expire(job_id integer, config jsonb)
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $procedure$
BEGIN
    CALL expire_but_shadows(job_id, config);
    DELETE FROM shadow_alert
    WHERE closed_at < now() - (config ->> 'alerts')::integer * INTERVAL '1 day';
END
$procedure$;
