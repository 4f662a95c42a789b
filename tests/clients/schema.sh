#!/usr/bin/env bash
# schema.sh SCHEMATHESIS URL: the daemon's answers against its own /openapi.json, with data that fit it and data that do not,
# on every route. The same cases in every run: the seed is fixed.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
here=$(cd "$(dirname "$0")" && pwd)
if ! "$1" --config-file "$here/schemathesis.toml" run "$2/openapi.json" >"$log" 2>&1; then
    cat "$log"
    exit 1
fi
grep -a 'Test cases:' -A2 "$log" | tr -s ' \n' ' ' | sed 's/^ */schemathesis: /; s/ *$/\n/'
