-- Who acknowledges a page has what is in it, and not what has left it for a page of its own. Runs
-- alike on PostgreSQL and TimescaleDB; the readings are not touched.

-- Somebody has a page: all its alerts, and the page itself, which one of them tells the pager.
-- Returns how many of the alerts nobody had before; NULL where there is no such page.
CREATE OR REPLACE FUNCTION acknowledge_page(of_group text, by_whom text, why text) RETURNS bigint
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
    -- First, for whoever takes a page has looked at it, and knows what has joined.
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
    -- In one order, so that two who acknowledge the same page do not wait for each other. An alert
    -- that got too bad for it has left, though the page told of it once. What has got worse and is
    -- not told yet, and what may be silenced since before it was told, is nobody's: they know less.
    SELECT count(*) FILTER (WHERE acknowledge_alert(x.alert_id, by_whom, why)) INTO changed
    FROM (
        SELECT m.alert_id FROM page_member m JOIN alert a USING (alert_id)
        JOIN page_track t USING (alert_id)
        WHERE m.group_key = of_group AND a.state IN ('open', 'stale')
          AND EXISTS (
              SELECT FROM jsonb_array_elements_text(t.body -> 'groups') k (group_key)
              LEFT JOIN page_group g USING (group_key)
              WHERE (k.group_key = of_group OR g.body ->> 'summary' = of_group)
                AND (NOT coalesce(t.body -> 'untold' ? k.group_key, false)
                     OR NOT (t.body ? 'was' OR EXISTS (
                         SELECT FROM silence s WHERE s.begins_at <= now() AND s.ends_at > now()
                           AND s.lifted_at IS NULL))))
          AND NOT EXISTS (SELECT FROM outbox o WHERE o.alert_id = m.alert_id
                          AND o.event = 'worse' AND o.decided_at IS NULL)
        ORDER BY m.alert_id
    ) x;
    RETURN changed;
END
$function$;

-- As before: with the rights of whoever owns the schema, for those alone who are given it.
DO $migration$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION acknowledge_page(text, text, text) SECURITY DEFINER'
        ' SET search_path = %I, pg_temp', current_schema());
END
$migration$;
