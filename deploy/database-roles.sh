#!/bin/bash
# Makes the roles that log in, when the database's volume is new; safe to run again, and to be run
# once by hand where the volume is older than a role in it (docs/security.md).
#
# citywatch owns the database, is no superuser, and is used by migrations alone. The services are
# members of the live city's groups, whose rights `citywatch db migrate` gives (storage/roles.py).
# Every editor of a Grafana dashboard can send any SQL, so what grafana may do is decided there.
set -euo pipefail

secrets=${SECRETS:-/run/secrets}

secret() {
  tr -d '\n' < "$secrets/$1"
}

# By the environment, because arguments can be read by everyone in the container.
CITYWATCH_ROLE_PASSWORD=$(secret database_password) \
WORKER_ROLE_PASSWORD=$(secret worker_database_password) \
PAGER_ROLE_PASSWORD=$(secret pager_database_password) \
CONSOLE_ROLE_PASSWORD=$(secret console_database_password) \
GRAFANA_ROLE_PASSWORD=$(secret grafana_database_password) \
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv citywatch_password CITYWATCH_ROLE_PASSWORD
\getenv worker_password WORKER_ROLE_PASSWORD
\getenv pager_password PAGER_ROLE_PASSWORD
\getenv console_password CONSOLE_ROLE_PASSWORD
\getenv grafana_password GRAFANA_ROLE_PASSWORD
SELECT format('CREATE ROLE %I', role) FROM unnest(ARRAY[
    'citywatch', 'citywatch_worker', 'citywatch_pager', 'citywatch_console', 'grafana',
    'live_writer', 'live_pager', 'live_api', 'live_reader', 'citywatch_reader']) role
WHERE role NOT IN (SELECT rolname FROM pg_roles) \gexec

-- It makes the groups of replays; of roles that it has not made it can change nothing.
ALTER ROLE citywatch LOGIN CREATEROLE PASSWORD :'citywatch_password';
ALTER ROLE citywatch_worker LOGIN PASSWORD :'worker_password';
ALTER ROLE citywatch_pager LOGIN PASSWORD :'pager_password';
ALTER ROLE citywatch_console LOGIN PASSWORD :'console_password' CONNECTION LIMIT 20;
ALTER ROLE grafana LOGIN PASSWORD :'grafana_password' CONNECTION LIMIT 20;

-- citywatch_reader reads replays as well: `citywatch db migrate` makes it a member of each reader.
GRANT live_writer TO citywatch_worker;
GRANT live_pager TO citywatch_pager;
GRANT citywatch_reader TO citywatch_console, grafana;
GRANT live_reader TO citywatch WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;

-- A panel that scans everything gives up instead of taking the database with it.
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '15s';
ALTER ROLE grafana SET search_path = live, public;

SELECT format('ALTER DATABASE %I OWNER TO citywatch', current_database()) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
-- What older versions gave to grafana itself.
DROP OWNED BY grafana;
SELECT format('GRANT CONNECT ON DATABASE %I TO live_writer, live_pager, live_api, citywatch_reader',
              current_database()) \gexec
SELECT format('GRANT TEMPORARY ON DATABASE %I TO live_writer', current_database()) \gexec
SQL
