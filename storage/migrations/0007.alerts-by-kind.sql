-- Several detectors may speak of one series at a time, each by an alert of its own kind. Runs alike on
-- PostgreSQL and TimescaleDB; alerts that are there stay as they are.

ALTER TABLE alert
    -- The range in which no alert would open. One end alone is a limit; `band` is its half width
    -- where it lies evenly around what was expected.
    ADD COLUMN lower double precision,
    ADD COLUMN upper double precision;

UPDATE alert SET lower = expected - band, upper = expected + band
WHERE expected IS NOT NULL AND band IS NOT NULL;

DROP INDEX alert_one_open;
CREATE UNIQUE INDEX alert_one_open ON alert (series_id, category, kind) WHERE state <> 'resolved';
