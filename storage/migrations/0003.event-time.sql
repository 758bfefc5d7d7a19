-- What event time adds. Runs alike on PostgreSQL and TimescaleDB; the readings are not touched.

ALTER TABLE ledger
    -- Of readings: those behind the watermark by more than is allowed. They are stored and flagged,
    -- and never judged. In lines from before this was counted it is 0.
    ADD COLUMN late bigint NOT NULL DEFAULT 0;
