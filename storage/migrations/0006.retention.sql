-- What is kept for how long, without an audit that no longer balances: what goes is noted in the
-- transaction in which it goes. Runs alike on PostgreSQL and TimescaleDB; how long is a setting.

-- Lines of the ledger that were removed, summed; `minute` is -infinity.
CREATE TABLE ledger_past (LIKE ledger INCLUDING DEFAULTS, PRIMARY KEY (bridge, source));

CREATE VIEW ledger_ever AS SELECT * FROM ledger UNION ALL SELECT * FROM ledger_past;

-- Dead letters as they are counted, without what was in them.
CREATE VIEW dead_letter_listed AS
SELECT dead_letter_id, received_at, bridge, source, mqtt_topic, reason, place, records,
       octet_length(payload) AS size, replayed_at
FROM dead_letter;

-- Remove readings from before `before`, and return how many. `sources` says which source's rows a
-- quantity counts as. On TimescaleDB whole chunks go, and a chunk that reaches further stays.
DO $migration$
BEGIN
    EXECUTE format($body$
        CREATE FUNCTION expire_readings(before timestamptz, sources jsonb) RETURNS bigint
        LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '2s'
        AS $function$
        DECLARE
            removed bigint := 0;
            gone bigint;
            chunk record;
        BEGIN
            %s
            RETURN removed;
        END
        $function$
    $body$, CASE WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN $body$
            FOR chunk IN
                SELECT format('%I.%I', chunk_schema, chunk_name) AS name, range_start, range_end
                FROM timescaledb_information.chunks
                WHERE hypertable_schema = current_schema() AND hypertable_name = 'reading'
                  AND range_end <= before
                ORDER BY range_start
            LOOP
                -- Nobody may add a row between the count and the end of the chunk. Where somebody
                -- reads it for long, workers would wait behind this lock: then it goes another time.
                BEGIN
                    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', chunk.name);
                EXCEPTION WHEN lock_not_available THEN
                    CONTINUE;
                END;
                EXECUTE format($query$
                    WITH gone AS (
                        SELECT coalesce($1 ->> q.quantity, 'unknown') AS source,
                               sum(c.rows)::bigint AS rows
                        FROM (SELECT series_id, count(*) AS rows FROM %s GROUP BY series_id) c
                        LEFT JOIN series q USING (series_id)
                        GROUP BY 1
                    ), noted AS (
                        INSERT INTO expired AS e (source, rows) SELECT source, rows FROM gone
                        ON CONFLICT (source)
                        DO UPDATE SET rows = e.rows + excluded.rows, last_at = now()
                    )
                    SELECT coalesce(sum(rows), 0) FROM gone
                $query$, chunk.name) INTO gone USING sources;
                PERFORM drop_chunks('reading', older_than => chunk.range_end,
                                    newer_than => chunk.range_start);
                DELETE FROM latest WHERE time < chunk.range_end;
                removed := removed + gone;
            END LOOP;
    $body$ ELSE $body$
            WITH gone AS (
                DELETE FROM reading r WHERE r.time < before RETURNING r.series_id
            ), counted AS (
                SELECT coalesce(sources ->> q.quantity, 'unknown') AS source,
                       sum(c.rows)::bigint AS rows
                FROM (SELECT series_id, count(*) AS rows FROM gone GROUP BY series_id) c
                LEFT JOIN series q USING (series_id)
                GROUP BY 1
            ), noted AS (
                INSERT INTO expired AS e (source, rows) SELECT source, rows FROM counted
                ON CONFLICT (source) DO UPDATE SET rows = e.rows + excluded.rows, last_at = now()
            )
            SELECT coalesce(sum(rows), 0) INTO removed FROM counted;
            DELETE FROM latest WHERE time < before;
    $body$ END);
END
$migration$;

-- Remove whole minutes of the ledger, with everything that must balance in them.
CREATE FUNCTION expire_ledger(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $function$
DECLARE
    before_minute constant timestamptz := date_trunc('minute', before);
    counts constant text[] := ARRAY(
        SELECT quote_ident(attname) FROM pg_attribute
        WHERE attrelid = 'ledger_past'::regclass AND attnum > 0 AND NOT attisdropped
          AND attname NOT IN ('bridge', 'source', 'minute'));
    removed bigint;
BEGIN
    EXECUTE format(
        'WITH gone AS (DELETE FROM ledger WHERE minute < $1 RETURNING *), kept AS ('
        ' INSERT INTO ledger_past AS l (bridge, source, minute, %s)'
        ' SELECT bridge, source, ''-infinity'', %s FROM gone GROUP BY bridge, source'
        ' ON CONFLICT (bridge, source) DO UPDATE SET %s)'
        ' SELECT count(*) FROM gone',
        array_to_string(counts, ', '),
        (SELECT string_agg(format('sum(%s)', name), ', ') FROM unnest(counts) name),
        (SELECT string_agg(format('%1$s = l.%1$s + excluded.%1$s', name), ', ')
         FROM unnest(counts) name)
    ) INTO removed USING before_minute;
    DELETE FROM ledger_kind WHERE minute < before_minute;
    DELETE FROM dead_letter WHERE received_at < before_minute;
    RETURN removed;
END
$function$;

-- Everything else, each thing older than its number of days in `config`; what has none is kept. A
-- job of TimescaleDB's scheduler, and what `citywatch db expire` calls.
CREATE PROCEDURE expire(job_id integer, config jsonb)
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $procedure$
DECLARE
    day constant interval := INTERVAL '1 day';
BEGIN
    PERFORM expire_readings(now() - (config ->> 'readings')::integer * day, config -> 'sources')
    WHERE config ? 'readings';
    PERFORM expire_ledger(now() - (config ->> 'ledger')::integer * day)
    WHERE config ? 'ledger';
    -- The letter stays, because the audit counts it.
    UPDATE dead_letter SET payload = NULL
    WHERE payload IS NOT NULL AND received_at < now() - (config ->> 'payloads')::integer * day;
    -- Of an alert that is over and told, both pages at once: one tells by the other whom to tell.
    DELETE FROM outbox o USING alert a
    WHERE a.alert_id = o.alert_id AND a.state = 'resolved'
      AND a.resolved_at < now() - (config ->> 'pages')::integer * day
      AND NOT EXISTS (SELECT FROM outbox p WHERE p.alert_id = o.alert_id
                      AND p.delivered_at IS NULL AND p.abandoned_at IS NULL);
    WITH ended AS (
        SELECT alert_id FROM alert a
        WHERE state = 'resolved'
          AND resolved_at < now() - (config ->> 'alerts')::integer * day
          AND NOT EXISTS (SELECT FROM outbox p WHERE p.alert_id = a.alert_id
                          AND p.delivered_at IS NULL AND p.abandoned_at IS NULL)
    ), pages AS (
        DELETE FROM outbox o USING ended WHERE o.alert_id = ended.alert_id
    ), transitions AS (
        DELETE FROM alert_transition t USING ended WHERE t.alert_id = ended.alert_id
    )
    DELETE FROM alert a USING ended WHERE a.alert_id = ended.alert_id;
END
$procedure$;
