-- The tables of one namespace. They are made in the schema that search_path names, so live and
-- every replay have their own. Runs alike on PostgreSQL and TimescaleDB.

CREATE TABLE sensor (
    sensor_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    domain     text NOT NULL,
    zone       text NOT NULL,
    longitude  double precision CHECK (longitude BETWEEN -180 AND 180),
    latitude   double precision CHECK (latitude BETWEEN -90 AND 90)
);

CREATE TABLE series (
    series_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sensor_id  integer NOT NULL REFERENCES sensor,
    quantity   text NOT NULL,
    unit       text NOT NULL,
    UNIQUE (sensor_id, quantity)
);

-- No foreign key: a check per row would cost more than the COPY itself, and the sink makes the
-- series in the same transaction.
-- score is -log10 of the tail probability; expected +- band is where no alert would open.
-- The three are NULL-free: NaN stands for "not scored" (see the view reading_scored).
CREATE TABLE reading (
    series_id  integer NOT NULL,
    time       timestamptz NOT NULL,
    value      double precision NOT NULL,
    quality    smallint NOT NULL,
    score      real NOT NULL,
    expected   real NOT NULL,
    band       real NOT NULL,
    PRIMARY KEY (series_id, time)
);

CREATE TABLE alert (
    alert_id    uuid PRIMARY KEY,
    series_id   integer NOT NULL REFERENCES series,
    category    text NOT NULL CHECK (category IN ('city', 'sensor-health')),
    kind        text NOT NULL,
    severity    text NOT NULL CHECK (severity IN ('informational', 'minor', 'major', 'critical')),
    state       text NOT NULL CHECK (state IN ('open', 'acknowledged', 'stale', 'resolved')),
    opened_at   timestamptz NOT NULL,   -- event time of the reading that opened it
    resolved_at timestamptz,            -- event time of the reading that closed it
    seen        double precision NOT NULL,
    expected    double precision,
    band        double precision,
    score       double precision,
    sentence    text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX alert_one_open ON alert (series_id, category) WHERE state <> 'resolved';
CREATE INDEX alert_newest ON alert (opened_at DESC);

CREATE TABLE alert_transition (
    alert_id    uuid NOT NULL REFERENCES alert,
    at          timestamptz NOT NULL,   -- event time
    state       text NOT NULL CHECK (state IN ('open', 'acknowledged', 'stale', 'resolved')),
    cause       text NOT NULL,
    actor       text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (alert_id, at, state)
);

-- What is still to be said to people. dedup_key is stable over restarts: a receiver that sees
-- (dedup_key, event) twice has seen one page.
CREATE TABLE outbox (
    outbox_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id        uuid NOT NULL REFERENCES alert,
    event           text NOT NULL CHECK (event IN ('firing', 'resolved')),
    dedup_key       text NOT NULL,
    payload         jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempts        integer NOT NULL DEFAULT 0,
    claimed_until   timestamptz,
    delivered_at    timestamptz,
    abandoned_at    timestamptz,
    last_error      text,
    UNIQUE (dedup_key, event)
);
CREATE INDEX outbox_delivered ON outbox (delivered_at) WHERE delivered_at IS NOT NULL;
CREATE INDEX outbox_pending ON outbox (next_attempt_at)
    WHERE delivered_at IS NULL AND abandoned_at IS NULL;

-- log_id names one incarnation of the Kafka log: an in-memory broker that restarts begins again
-- at offset 0, and positions in the log it lost mean nothing any more.
CREATE TABLE stream_position (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    log_id      text NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);

CREATE TABLE detector_state (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    log_id      text NOT NULL,
    next_offset bigint NOT NULL,
    version     integer NOT NULL,
    state       bytea NOT NULL,
    saved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
);
ALTER TABLE detector_state ALTER COLUMN state SET STORAGE EXTERNAL;

-- readings = stored + duplicates + late_conflicts, per bridge, source and minute of arrival.
-- messages counts MQTT messages received, redeliveries included; a message is rejected whole.
CREATE TABLE ledger (
    bridge         text NOT NULL,
    source         text NOT NULL,
    minute         timestamptz NOT NULL,
    messages       bigint NOT NULL DEFAULT 0,
    readings       bigint NOT NULL DEFAULT 0,
    rejected       bigint NOT NULL DEFAULT 0,
    withheld       bigint NOT NULL DEFAULT 0,
    stored         bigint NOT NULL DEFAULT 0,
    duplicates     bigint NOT NULL DEFAULT 0,
    late_conflicts bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (bridge, source, minute)
);
CREATE INDEX ledger_minute ON ledger (minute);

CREATE TABLE dead_letter (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at    timestamptz NOT NULL,
    bridge         text NOT NULL,
    mqtt_topic     text NOT NULL,
    reason         text NOT NULL,
    place          text NOT NULL,
    payload        bytea            -- NULL where privacy forbids to keep it
);
CREATE INDEX dead_letter_newest ON dead_letter (received_at);
CREATE INDEX dead_letter_reason ON dead_letter (reason, received_at);

CREATE VIEW reading_scored AS
SELECT r.series_id, r.time, r.value, r.quality,
       nullif(r.score, 'NaN') AS score,
       nullif(r.expected, 'NaN') AS expected,
       nullif(r.band, 'NaN') AS band,
       q.quantity, q.unit, s.sensor_id, s.name AS sensor, s.domain, s.zone
FROM reading r
JOIN series q USING (series_id)
JOIN sensor s USING (sensor_id);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        PERFORM create_hypertable('reading', by_range('time', INTERVAL '1 day'));
    ELSE
        EXECUTE $body$
            CREATE FUNCTION time_bucket(width interval, ts timestamptz) RETURNS timestamptz
            LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
            RETURN date_bin(width, ts, TIMESTAMPTZ '2000-01-03 00:00:00+00')
        $body$;
    END IF;
END
$$;
