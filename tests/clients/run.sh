#!/usr/bin/env bash
# Other people's clients against running daemons: openai (Python and Node), litellm, langchain-openai, schemathesis and
# promtool (metrics, alert rules), then a clean end. HONED names the binary, if it is not the debug build; arguments go to
# `honed serve`.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/clients
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")
honed=${HONED:-$build/debug/honed}
export PATH="$PATH:$build/tools/usr/bin" PYTHONDONTWRITEBYTECODE=1

passed=0
data=$(mktemp -d)
daemons=()
trap 'kill -KILL "${daemons[@]}" 2>/dev/null || true; wait "${daemons[@]}" 2>/dev/null || true; rm -rf "$data"' EXIT

fail() {
    printf 'clients: %s\n' "$*" >&2
    for log in "$data"/*.log; do
        [ ! -s "$log" ] || { printf '%s said:\n' "$(basename "$log" .log)" >&2; tail -n 40 "$log" >&2; }
    done
    printf 'test result: FAILED. %d passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n' "$passed"
    exit 1
}

# check WHAT COMMAND…: one check more, or the end.
check() {
    local what=$1
    shift
    "$@" || fail "$what found faults"
    passed=$((passed + 1))
}

# What the clients are made of is installed once for each list of them.
venv=$build/clients-venv
stamp=$(cat tests/clients/requirements.txt <(python3 --version) | sha256sum | cut -c1-16)
if [ ! -e "$venv/$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt \
        || fail "pip could not install tests/clients/requirements.txt"
    touch "$venv/$stamp"
fi
# Node looks for modules beside the program, so the program goes to the modules: nothing is installed into the sources.
modules=$build/clients-node
stamp=$(cat tests/clients/package-lock.json <(node --version) | sha256sum | cut -c1-16)
if [ ! -e "$modules/$stamp" ]; then
    rm -rf "$modules"
    mkdir -p "$modules"
    cp tests/clients/package.json tests/clients/package-lock.json "$modules"
    (cd "$modules" && npm ci --silent --ignore-scripts --no-audit --no-fund) \
        || fail "npm could not install tests/clients/package-lock.json"
    touch "$modules/$stamp"
fi
cp tests/clients/openai_client.mjs "$modules"

# start NAME ARGUMENT…: a daemon of that name; its address is in $url, its process is the last of $daemons.
start() {
    local name=$1 log=$data/$1.log
    shift
    "$honed" serve --listen 127.0.0.1:0 --data-dir "$data/$name" "$@" >"$log" 2>&1 </dev/null &
    daemons+=($!)
    url=
    for _ in $(seq 600); do
        url=$(grep -ao 'listening on http://[0-9.]*:[0-9]*' "$log" | head -n1 | cut -d' ' -f3) || true
        if [ -n "$url" ] && curl -fs -o /dev/null "$url/readyz"; then return; fi
        kill -0 "${daemons[-1]}" 2>/dev/null || fail "the daemon $name ended before it was ready"
        sleep 0.1
    done
    fail "the daemon $name is not ready after a minute"
}

start open "$@"
open=$url
key=a-key-of-tests
printf '%s\n' "$key" >"$data/keys"
printf 'an-admins-key-of-tests\n' >"$data/admin-keys"
start strict --set ppo.enabled=false --set policy.parallel=1 --set policy.max_queue=1 \
    --set "daemon.api_keys_file=$data/keys" --set "daemon.admin_keys_file=$data/admin-keys"
strict=$url
# Every route open to one key, folders to read models from, answers that are soon whole, and nothing learnt meanwhile.
mkdir "$data/models"
cp "$data/open/built-in.gguf" "$data/models/tuned.gguf"
start described --set policy.context_tokens=128 --set ppo.rollouts_per_update=65536 \
    --set "daemon.import_dir=$data/models" --set "reward.folder=$data/models" \
    --set "daemon.api_keys_file=$data/keys" --set "daemon.admin_keys_file=$data/admin-keys"
described=$url

check "openai for Python" "$venv/bin/python" "$here/openai_client.py" "$open" "$strict" "$key"
check "openai for Node" node "$modules/openai_client.mjs" "$open" "$strict" "$key"
check litellm "$venv/bin/python" "$here/litellm_client.py" "$open" "$strict" "$key"
check langchain-openai "$venv/bin/python" "$here/langchain_client.py" "$open" "$strict" "$key"
check schemathesis "$here/schema.sh" "$venv/bin/schemathesis" "$described" "$(cat "$data/admin-keys")"

# Piped, so that an unreadable page fails too.
metrics() { curl -fs "$open/metrics" | promtool check metrics; }
rules() { (cd daemon/dashboards && promtool check rules alerts.yml && promtool test rules alerts_test.yml); }
check "promtool, in /metrics," metrics
check "promtool, in daemon/dashboards," rules

ends_well() {
    local status=0
    kill -TERM "${daemons[0]}"
    wait "${daemons[0]}" || status=$?
    [ "$status" = 0 ] || { printf 'SIGTERM ended the daemon with status %s, expected 0\n' "$status" >&2; return 1; }
    ! grep -a panicked "$data"/*.log
}
check "the end" ends_well
printf 'test result: ok. %d passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n' "$passed"
