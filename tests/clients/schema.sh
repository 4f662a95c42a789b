#!/usr/bin/env bash
# schema.sh SCHEMATHESIS URL KEY: the daemon's answers against its own /openapi.json, with data that fit it and data that do not,
# on every route, those of administrators included: KEY opens them all. The same cases in every run: the seed is fixed.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cd "$(dirname "$0")/../.."
if ! "$1" --config-file tests/clients/schemathesis.toml run "$2/openapi.json" --header "Authorization: Bearer $3" >"$log" 2>&1
then
    cat "$log"
    exit 1
fi
grep -a 'Test cases:' -A2 "$log" | tr -s ' \n' ' ' | sed 's/^ */schemathesis: /; s/ *$/\n/'
