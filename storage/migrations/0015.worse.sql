-- An alert may get worse while it is open, and the pager hears of it: an event whose payload is the
-- whole page, as of then. Runs alike on PostgreSQL and TimescaleDB; the readings are not touched.

ALTER TABLE outbox DROP CONSTRAINT outbox_event_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_event_check
    CHECK (event IN ('firing', 'worse', 'resolved', 'stale', 'back', 'acknowledged'));
