-- The newest reading of each series, for a map of the whole city: one short scan in the place of a
-- probe into `reading` for each series. Always copied from `reading` (storage/latest.py), never
-- ahead of it. Runs alike on PostgreSQL and TimescaleDB.

-- Half of each page is left free, so that a row stays on its page when it changes.
CREATE TABLE latest (
    series_id  integer PRIMARY KEY,
    time       timestamptz NOT NULL,
    value      double precision NOT NULL,
    quality    smallint NOT NULL,
    score      real NOT NULL,
    expected   real NOT NULL,
    band       real NOT NULL
) WITH (fillfactor = 50);

INSERT INTO latest (series_id, time, value, quality, score, expected, band)
SELECT r.series_id, r.time, r.value, r.quality, r.score, r.expected, r.band
FROM series q
CROSS JOIN LATERAL (
    SELECT * FROM reading WHERE reading.series_id = q.series_id ORDER BY reading.time DESC LIMIT 1
) r;
