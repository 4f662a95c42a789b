#!/usr/bin/env bash
# Other people's clients against a running daemon: openai-python and promtool (metrics, alert rules), then a clean end.
# HONED names the binary, if it is not the debug build; arguments go to `honed serve`.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")
honed=${HONED:-$build/debug/honed}
export PATH="$PATH:$build/tools/usr/bin"

fail() {
    printf 'clients: %s\n' "$*" >&2
    [ ! -s "${log:-}" ] || { printf 'the daemon said:\n' >&2; tail -n 40 "$log" >&2; }
    printf 'test result: FAILED. %d passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n' "${passed:-0}"
    exit 1
}

venv=$build/clients-venv
stamp=$(cat tests/clients/requirements.txt <(python3 --version) | sha256sum | cut -c1-16)
if [ ! -e "$venv/$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt \
        || fail "pip could not install tests/clients/requirements.txt"
    touch "$venv/$stamp"
fi

data=$(mktemp -d)
log=$data/honed.log
"$honed" serve --listen 127.0.0.1:0 --data-dir "$data/data" "$@" >"$log" 2>&1 </dev/null &
daemon=$!
trap 'kill -KILL "$daemon" 2>/dev/null || true; rm -rf "$data"' EXIT

url=
for _ in $(seq 600); do
    url=$(grep -ao 'listening on http://[0-9.]*:[0-9]*' "$log" | head -n1 | cut -d' ' -f3) || true
    if [ -n "$url" ] && curl -fs -o /dev/null "$url/readyz"; then break; fi
    kill -0 "$daemon" 2>/dev/null || fail "the daemon ended before it was ready"
    sleep 0.1
done
[ -n "$url" ] || fail "the daemon did not say where it listens"
curl -fs -o /dev/null "$url/readyz" || fail "the daemon is not ready after a minute"

passed=0
"$venv/bin/python" tests/clients/openai_client.py "$url" || fail "openai-python found faults"
passed=1
# Piped, so that an unreadable page fails too.
curl -fs "$url/metrics" | promtool check metrics || fail "promtool found faults in /metrics"
passed=2
(cd daemon/dashboards && promtool check rules alerts.yml && promtool test rules alerts_test.yml) \
    || fail "promtool found faults in daemon/dashboards"
passed=3
kill -TERM "$daemon"
status=0
wait "$daemon" || status=$?
[ "$status" = 0 ] || fail "SIGTERM ended the daemon with status $status, expected 0"
passed=4
printf 'test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n'
