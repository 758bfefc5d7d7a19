-- Who may have heard that something began, though they could not say so, is told that it is over.
-- Runs alike on PostgreSQL and TimescaleDB; the readings are not touched.

-- Attempts of which the other side cannot have heard.
ALTER TABLE delivery ADD COLUMN missed integer NOT NULL DEFAULT 0;

-- What was given up before is taken as it was taken then: nobody heard of it.
UPDATE delivery SET missed = attempts WHERE delivered_at IS NULL AND abandoned_at IS NOT NULL;

-- Whoever may write down why an attempt failed may write down this.
DO $do$
DECLARE
    pager name;
BEGIN
    FOR pager IN
        SELECT grantee FROM information_schema.column_privileges
        WHERE table_schema = current_schema AND table_name = 'delivery'
          AND column_name = 'last_error' AND privilege_type = 'UPDATE' AND grantee <> current_user
    LOOP
        EXECUTE format('GRANT UPDATE (missed) ON delivery TO %I', pager);
    END LOOP;
END
$do$;
