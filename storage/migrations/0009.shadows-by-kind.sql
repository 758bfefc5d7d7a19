-- A shadow may have several alerts open of one series at a time, each of its own kind, as `alert`
-- has. Runs alike on PostgreSQL and TimescaleDB; what is there stays as it is.

DROP INDEX shadow_alert_one_open;
CREATE UNIQUE INDEX shadow_alert_one_open ON shadow_alert (shadow, series_id, category, kind)
    WHERE closed_at IS NULL;
ALTER TABLE shadow_alert
    DROP CONSTRAINT shadow_alert_pkey,
    ADD PRIMARY KEY (shadow, series_id, category, kind, opened_at);
