#!/bin/bash
# Makes the two roles that log in, once, when the database's volume is new.
#
# citywatch owns the database and is no superuser. grafana reads: every editor of a dashboard can
# send any SQL, so what Grafana may do is decided here. Grants are defaults of citywatch, so they
# hold for the schemas and tables that migrations will make.
set -euo pipefail

secrets=${SECRETS:-/run/secrets}

secret() {
  tr -d '\n' < "$secrets/$1"
}

# By the environment, because arguments can be read by everyone in the container.
CITYWATCH_ROLE_PASSWORD=$(secret database_password) \
GRAFANA_ROLE_PASSWORD=$(secret grafana_database_password) \
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv citywatch_password CITYWATCH_ROLE_PASSWORD
\getenv grafana_password GRAFANA_ROLE_PASSWORD
CREATE ROLE citywatch LOGIN PASSWORD :'citywatch_password';
CREATE ROLE grafana LOGIN PASSWORD :'grafana_password' CONNECTION LIMIT 20;
-- A panel that scans everything gives up instead of taking the database with it.
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '15s';
ALTER ROLE grafana SET search_path = live, public;

SELECT format('ALTER DATABASE %I OWNER TO citywatch', current_database()) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO grafana', current_database()) \gexec
ALTER DEFAULT PRIVILEGES FOR ROLE citywatch GRANT USAGE ON SCHEMAS TO grafana;
ALTER DEFAULT PRIVILEGES FOR ROLE citywatch GRANT SELECT ON TABLES TO grafana;
SQL
