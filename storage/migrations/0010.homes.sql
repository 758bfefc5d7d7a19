-- Which partition of the readings' topic judges a series. Runs alike on PostgreSQL and TimescaleDB.

ALTER TABLE series
    ADD COLUMN home    integer,         -- NULL until it is read again
    ADD COLUMN home_at timestamptz;     -- event time of a reading that was read there
