-- Whoever says that they have a page has it, whatever has become of its alerts. Runs alike on
-- PostgreSQL and TimescaleDB; the readings are not touched.

-- Somebody has an alert. Returns whether that changed anything: whether it was open, or one of its
-- pages still is and nobody has that, though the alert is over (and held open, because it flaps) or
-- somebody had it before.
CREATE OR REPLACE FUNCTION acknowledge_alert(of_alert uuid, by_whom text, why text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $function$
BEGIN
    UPDATE alert SET state = 'acknowledged' WHERE alert_id = of_alert AND state IN ('open', 'stale');
    IF FOUND THEN
        INSERT INTO alert_transition (alert_id, at, state, cause, actor)
        VALUES (of_alert, clock_timestamp(), 'acknowledged', why, by_whom);
    ELSIF NOT EXISTS (
        SELECT FROM page_member m JOIN page_group g USING (group_key)
        WHERE m.alert_id = of_alert AND g.told_at IS NOT NULL AND g.closed_at IS NULL
          AND NOT g.body ? 'acknowledged_at'
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.alert_id = of_alert
                          AND o.event = 'acknowledged' AND o.decided_at IS NULL))
    THEN
        RETURN false;
    END IF;
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at, actor)
    SELECT of_alert, 'acknowledged', of_alert::text, '{}', clock_timestamp(), by_whom
    WHERE EXISTS (SELECT FROM outbox WHERE alert_id = of_alert AND event = 'firing');
    PERFORM ring_pagers();
    RETURN true;
END
$function$;

-- Somebody has a page: all its alerts, and the page itself, which one of them tells the pager.
-- Returns how many of the alerts nobody had before; NULL where there is no such page.
CREATE FUNCTION acknowledge_page(of_group text, by_whom text, why text) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $function$
DECLARE
    present page_group;
    changed bigint;
BEGIN
    SELECT * INTO present FROM page_group WHERE group_key = of_group;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- In one order, so that two who acknowledge the same page do not wait for each other. Of a
    -- summary not those that have got too bad for it, and have a page of their own.
    SELECT count(*) FILTER (WHERE acknowledge_alert(x.alert_id, by_whom, why)) INTO changed
    FROM (
        SELECT m.alert_id FROM page_member m JOIN alert a USING (alert_id)
        WHERE m.group_key = of_group AND a.state IN ('open', 'stale')
          AND (present.cause <> 'budget' OR EXISTS (
              SELECT FROM page_member n JOIN page_group g USING (group_key)
              WHERE n.alert_id = m.alert_id AND g.body ->> 'summary' = of_group))
        ORDER BY m.alert_id
    ) x;
    IF present.closed_at IS NULL AND NOT present.body ? 'acknowledged_at' THEN
        INSERT INTO outbox (alert_id, event, dedup_key, payload, at, actor)
        SELECT alert_id, 'acknowledged', of_group, jsonb_build_object('group', of_group),
               clock_timestamp(), by_whom
        FROM page_member m
        WHERE group_key = of_group
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.alert_id = m.alert_id
                          AND o.dedup_key = of_group AND o.decided_at IS NULL)
        ORDER BY joined_at DESC, alert_id LIMIT 1;
        PERFORM ring_pagers();
    END IF;
    RETURN changed;
END
$function$;

-- As in migration 0012: with the rights of whoever owns the schema, for those alone who are given it.
DO $migration$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION acknowledge_alert(uuid, text, text) SECURITY DEFINER'
        ' SET search_path = %I, pg_temp', current_schema());
    EXECUTE format(
        'ALTER FUNCTION acknowledge_page(text, text, text) SECURITY DEFINER'
        ' SET search_path = %I, pg_temp', current_schema());
END
$migration$;
REVOKE EXECUTE ON FUNCTION acknowledge_page(text, text, text) FROM PUBLIC;
