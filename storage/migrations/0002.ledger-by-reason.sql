-- The ledger says why, and the dead letters say of what: every count of the one has its
-- counterpart in the other. Runs alike on PostgreSQL and TimescaleDB; the readings are not touched.

-- How far a sensor's clock is ahead of the city's (behind: negative); NULL for one that is right.
ALTER TABLE sensor
    ADD COLUMN clock_offset_s  double precision,
    ADD COLUMN clock_offset_at timestamptz;   -- when clock_offset_s last changed

-- Per bridge, source and minute of arrival:
--   messages = passed + rejected
--   readings = stored + duplicates + late_conflicts
--   ledger_kind 'rejected' sums to rejected + refused, 'withheld' to withheld
--   dead letters: one without records for each of rejected, and records that sum to refused
ALTER TABLE ledger
    ADD COLUMN passed   bigint NOT NULL DEFAULT 0,   -- messages taken, whole or in part
    ADD COLUMN repeated bigint NOT NULL DEFAULT 0,   -- readings their own message had already
    ADD COLUMN refused  bigint NOT NULL DEFAULT 0;   -- records left out of messages taken in part

CREATE TABLE ledger_kind (
    bridge  text NOT NULL,
    source  text NOT NULL,
    minute  timestamptz NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('rejected', 'withheld')),
    kind    text NOT NULL,
    count   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (bridge, source, minute, outcome, kind)
);
CREATE INDEX ledger_kind_minute ON ledger_kind (minute);

ALTER TABLE dead_letter
    ADD COLUMN source      text NOT NULL DEFAULT 'unknown',
    ADD COLUMN records     bigint DEFAULT 0,   -- 0: a whole message; NULL: was never told
    ADD COLUMN replayed_at timestamptz;

-- Rows of `reading` that were removed on purpose. Whoever removes any adds them here.
CREATE TABLE expired (
    source  text PRIMARY KEY,
    rows    bigint NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now()
);

-- Kafka messages that expired before a worker had read them: their readings are gone, and the
-- counts that travelled with them as well.
CREATE TABLE log_gap (
    topic        text NOT NULL,
    partition    integer NOT NULL,
    log_id       text NOT NULL,
    first_offset bigint NOT NULL,
    next_offset  bigint NOT NULL,
    found_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, log_id, first_offset)
);

-- What is there already. A message was rejected under the domain of its topic, or, where that was
-- none of a city's, under 'unknown'.
UPDATE dead_letter SET source = split_part(mqtt_topic, '/', 3)
WHERE reason NOT IN ('topic', 'unreadable-batch');

-- Kafka messages that could not be read: their readings were counted as rejected, a letter for all
-- sources of a message together. They become refused, with a letter for each line of the ledger.
UPDATE dead_letter SET records = NULL WHERE reason = 'unreadable-batch';

INSERT INTO dead_letter (received_at, bridge, source, mqtt_topic, reason, place, records)
SELECT l.minute, l.bridge, l.source, '', 'unreadable-batch',
       'readings counted before letters told how many', l.rejected - coalesce(d.letters, 0)
FROM ledger l
LEFT JOIN (SELECT bridge, source, date_trunc('minute', received_at) AS minute, count(*) AS letters
           FROM dead_letter WHERE reason <> 'unreadable-batch' GROUP BY 1, 2, 3) d
  USING (bridge, source, minute)
WHERE l.rejected > coalesce(d.letters, 0)
  AND (l.bridge, l.minute) IN (SELECT bridge, date_trunc('minute', received_at) FROM dead_letter
                               WHERE reason = 'unreadable-batch');

-- Those that nobody counted count as one record each.
INSERT INTO dead_letter (received_at, bridge, mqtt_topic, reason, place, records)
SELECT date_trunc('minute', received_at), bridge, '', 'unreadable-batch',
       'messages that were not counted before', count(*)
FROM dead_letter WHERE reason = 'unreadable-batch' AND bridge = 'unknown' AND records IS NULL
GROUP BY date_trunc('minute', received_at), bridge;

INSERT INTO ledger (bridge, source, minute)
SELECT bridge, source, received_at FROM dead_letter WHERE bridge = 'unknown' AND records > 0
ON CONFLICT DO NOTHING;

UPDATE ledger l SET refused = d.records,
                    rejected = CASE WHEN d.bridge = 'unknown' THEN l.rejected
                                    ELSE l.rejected - d.records END
FROM dead_letter d
WHERE d.records > 0 AND (d.bridge, d.source, d.received_at) = (l.bridge, l.source, l.minute);

UPDATE ledger SET passed = messages - rejected;

INSERT INTO ledger_kind (bridge, source, minute, outcome, kind, count)
SELECT bridge, source, date_trunc('minute', received_at), 'rejected', reason,
       sum(CASE records WHEN 0 THEN 1 ELSE records END)
FROM dead_letter WHERE records IS NOT NULL
GROUP BY bridge, source, date_trunc('minute', received_at), reason;

-- Nobody noted of what kind the withheld attributes were.
INSERT INTO ledger_kind (bridge, source, minute, outcome, kind, count)
SELECT bridge, source, minute, 'withheld', 'unrecorded', withheld FROM ledger WHERE withheld > 0;

-- What was removed until now nobody noted; from here on the rows are balanced, too.
INSERT INTO expired (source, rows)
SELECT source, coalesce(stored, 0) - coalesce(present, 0)
FROM (SELECT source, sum(stored) AS stored FROM ledger GROUP BY source) w
FULL JOIN (
    SELECT CASE
               WHEN quantity IN ('intensity', 'occupancy', 'averageVehicleSpeed',
                                 'averageHeadwayTime', 'averageTravelTime') THEN 'traffic'
               WHEN quantity IN ('pm25', 'pm10', 'no2', 'o3', 'so2', 'co', 'temperature',
                                 'relativeHumidity', 'LAeq') THEN 'environment'
               WHEN quantity IN ('peopleCount', 'peopleCountTowards', 'peopleCountAway',
                                 'averageCrowdSpeed') THEN 'cameras'
               ELSE 'unknown'
           END AS source,
           sum(rows) AS present
    FROM (SELECT series_id, count(*) AS rows FROM reading GROUP BY series_id) r
    LEFT JOIN series USING (series_id)
    GROUP BY 1
) p USING (source)
WHERE coalesce(stored, 0) <> coalesce(present, 0);
