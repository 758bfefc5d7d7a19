-- Readings by minute, quarter of an hour and day, for charts of long windows. On TimescaleDB they
-- are continuous aggregates, each made of the one before, and old readings go into the columnstore;
-- elsewhere they are views of the same columns. Sums and counts are kept, not averages, so an
-- average of a long bucket is exact. What is not scored (NaN) counts in none of them.

DO $migration$
DECLARE
    -- The edition under the Apache licence has hypertables, but none of what is used here.
    community constant boolean := current_setting('timescaledb.license', true) = 'timescale'
        AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    level record;
BEGIN
    FOR level IN
        SELECT * FROM (VALUES
            -- A chunk of each holds about as many rows as a day of readings that come by the minute.
            ('reading_1m', 'reading', '1 minute', '1 day'),
            ('reading_15m', 'reading_1m', '15 minutes', '15 days'),
            ('reading_1d', 'reading_15m', '1 day', '360 days')
        ) AS l (name, below, width, chunk)
    LOOP
        EXECUTE format(
            CASE WHEN community
                -- Real time: what is not materialised yet is computed when it is asked for. So a
                -- chart ends now, and is whole from the moment of this migration.
                THEN 'CREATE MATERIALIZED VIEW %1$I WITH (timescaledb.continuous,'
                     ' timescaledb.materialized_only = false, timescaledb.chunk_interval = %4$L) AS '
                ELSE 'CREATE VIEW %1$I AS '
            END
            || CASE level.below
                WHEN 'reading' THEN $body$
                    SELECT series_id, time_bucket(INTERVAL %3$L, time) AS time,
                           count(nullif(value, 'NaN')) AS count,
                           sum(nullif(value, 'NaN')) AS total,
                           min(nullif(value, 'NaN')) AS lowest,
                           max(nullif(value, 'NaN')) AS highest,
                           max(quality) AS quality,
                           count(*) FILTER (WHERE expected <> 'NaN' AND band <> 'NaN') AS scored,
                           sum(expected::double precision)
                               FILTER (WHERE expected <> 'NaN' AND band <> 'NaN') AS expected_total,
                           sum(band::double precision)
                               FILTER (WHERE expected <> 'NaN' AND band <> 'NaN') AS band_total,
                           max(nullif(score, 'NaN')) AS score
                    FROM %2$I
                    GROUP BY series_id, time_bucket(INTERVAL %3$L, time)
                $body$
                ELSE $body$
                    SELECT series_id, time_bucket(INTERVAL %3$L, time) AS time,
                           sum(count)::bigint AS count,
                           sum(total) AS total,
                           min(lowest) AS lowest,
                           max(highest) AS highest,
                           max(quality) AS quality,
                           sum(scored)::bigint AS scored,
                           sum(expected_total) AS expected_total,
                           sum(band_total) AS band_total,
                           max(score) AS score
                    FROM %2$I
                    GROUP BY series_id, time_bucket(INTERVAL %3$L, time)
                $body$
            END
            || CASE WHEN community THEN ' WITH NO DATA' ELSE '' END,
            level.name, level.below, level.width, level.chunk
        );
    END LOOP;
    IF community THEN
        ALTER TABLE reading SET (
            timescaledb.enable_columnstore,
            timescaledb.segmentby = 'series_id',
            timescaledb.orderby = 'time DESC'
        );
        ALTER MATERIALIZED VIEW reading_1m SET (timescaledb.enable_columnstore);
        ALTER MATERIALIZED VIEW reading_15m SET (timescaledb.enable_columnstore);
    END IF;

    -- One series in buckets of `width`, of the coarsest level whose buckets make up whole ones of
    -- `width`; both ends are widened to whole buckets of that level, and below a minute not at all.
    -- It is inlined into whatever asks, so it costs what it reads.
    EXECUTE $body$
        CREATE FUNCTION chart(
            of_series integer, since timestamptz, until timestamptz, width interval
        ) RETURNS TABLE (
            "time" timestamptz, value double precision, lowest double precision,
            highest double precision, expected double precision, lower double precision,
            upper double precision, quality smallint
        ) LANGUAGE sql STABLE
        BEGIN ATOMIC
            SELECT b.time, b.total / nullif(b.count, 0), b.lowest, b.highest,
                   b.expected_total / nullif(b.scored, 0),
                   (b.expected_total - b.band_total) / nullif(b.scored, 0),
                   (b.expected_total + b.band_total) / nullif(b.scored, 0),
                   b.quality
            FROM (
    $body$ || array_to_string(ARRAY(
        SELECT format(
            CASE WHEN community AND grain IS NOT NULL THEN $body$
                SELECT time_bucket(width, l.time) AS time, sum(l.count)::bigint AS count,
                       sum(l.total) AS total, min(l.lowest) AS lowest, max(l.highest) AS highest,
                       max(l.quality) AS quality, sum(l.scored)::bigint AS scored,
                       sum(l.expected_total) AS expected_total, sum(l.band_total) AS band_total
                FROM %1$I l
                WHERE l.series_id = of_series AND (%2$s)
                  AND l.time >= time_bucket(INTERVAL %3$L, since) AND l.time <= until
                GROUP BY time_bucket(width, l.time)
            $body$ ELSE $body$
                SELECT time_bucket(width, r.time) AS time, count(nullif(r.value, 'NaN')) AS count,
                       sum(nullif(r.value, 'NaN')) AS total,
                       min(nullif(r.value, 'NaN')) AS lowest,
                       max(nullif(r.value, 'NaN')) AS highest,
                       max(r.quality) AS quality,
                       count(*) FILTER (WHERE r.expected <> 'NaN' AND r.band <> 'NaN') AS scored,
                       sum(r.expected::double precision)
                           FILTER (WHERE r.expected <> 'NaN' AND r.band <> 'NaN') AS expected_total,
                       sum(r.band::double precision)
                           FILTER (WHERE r.expected <> 'NaN' AND r.band <> 'NaN') AS band_total
                FROM reading r
                WHERE r.series_id = of_series AND (%2$s)
            $body$ || CASE WHEN grain IS NULL
                THEN ' AND r.time > since AND r.time <= until'
                ELSE ' AND r.time >= time_bucket(INTERVAL %3$L, since)'
                     ' AND r.time < time_bucket(INTERVAL %3$L, until) + INTERVAL %3$L'
            END || ' GROUP BY time_bucket(width, r.time)' END,
            name, fits, grain)
        FROM (VALUES
            ('reading', 'mod(extract(epoch FROM width), 60) <> 0', NULL),
            ('reading_1m', 'mod(extract(epoch FROM width), 60) = 0'
                           ' AND mod(extract(epoch FROM width), 900) <> 0', '1 minute'),
            ('reading_15m', 'mod(extract(epoch FROM width), 900) = 0'
                            ' AND mod(extract(epoch FROM width), 86400) <> 0', '15 minutes'),
            ('reading_1d', 'mod(extract(epoch FROM width), 86400) = 0', '1 day')
        ) AS l (name, fits, grain)
    ), ' UNION ALL ') || $body$
            ) b;
        END
    $body$;
END
$migration$;

