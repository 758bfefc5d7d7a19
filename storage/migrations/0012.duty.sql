-- What people on duty order and read. Runs alike on PostgreSQL and TimescaleDB; the readings are not
-- touched.

-- Of one that was cancelled before this, nobody knows who did.
ALTER TABLE oncall_override ADD COLUMN lifted_by text;
