-- Who has a page now, and since when somebody first had it: it may get worse, and is nobody's then
-- until somebody says so again. Runs alike on PostgreSQL and TimescaleDB; the readings are not
-- touched.

ALTER TABLE page_group ADD COLUMN first_acknowledged_at timestamptz;
UPDATE page_group
SET first_acknowledged_at = acknowledged_at,
    acknowledged_at = CASE WHEN body ? 'acknowledged_at' THEN acknowledged_at END,
    acknowledged_by = CASE WHEN body ? 'acknowledged_at' THEN acknowledged_by END
WHERE acknowledged_at IS NOT NULL;
