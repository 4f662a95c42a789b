#!/usr/bin/env bash
# lm-evaluation-harness against a daemon, and its log-likelihoods against the trainer's: `tests/peers.rs` has the comparison.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")

venv=$build/peers-venv
stamp=$(cat tests/peers/requirements.txt <(python3 --version) | sha256sum | cut -c1-16)
if [ ! -e "$venv/$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/peers/requirements.txt
    touch "$venv/$stamp"
fi

# The switches of cargo are those of `make test`, or llama.cpp would be compiled once more.
HONED_LM_EVAL=$venv/bin/lm_eval "${CARGO:-cargo}" test --workspace --test tests --locked -- --ignored peers:: --nocapture
