"""Schema, migrations, the COPY sink and the queries of the database."""
