#!/bin/sh
# The platform's part in the demonstration of compose.yaml: one sync after the other, each from the state of the last.
# Where the server is, the variables of libpq say. Files go into the working directory.
set -eu
connector=$AIRBYTE_ENTRYPOINT

cat >config.json <<CONFIG
{
  "host": "$PGHOST", "port": ${PGPORT:-5432}, "database": "$PGDATABASE",
  "username": "$PGUSER", "password": "${PGPASSWORD:-}", "ssl_mode": { "mode": "disable" },
  "replication_method": { "method": "CDC", "replication_slot": "demo", "publication": "demo" }
}
CONFIG

echo 'waiting for the tables' >&2
until $connector sample-catalog --config config.json metrics devices >catalog.json 2>/dev/null; do sleep 2; done
$connector check --config config.json

echo '[]' >state.json
while true; do
  # Whatever happens to a sync: its last state counts.
  $connector read --config config.json --catalog catalog.json --state state.json >sync.jsonl || true
  cat sync.jsonl
  if grep -q '^{"type":"STATE"' sync.jsonl; then $connector last-state sync.jsonl >state.json; fi
  sleep "${DEMO_PAUSE:-5}"
done
