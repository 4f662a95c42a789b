# `make demo` shows it, `make test` checks it; both install what is missing first.

CARGO ?= cargo
ARGS ?=
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
KILLS ?= 200
SEED ?= 1
SECONDS ?= 600

.PHONY: help demo test test-peers deps serve lint golden soak cuda-check kill-test fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: ## build, serve the built-in model, and watch PPO improve it under traffic (ARGS="--seed 2")
	@.ci/deps build
	$(CARGO) build --release --locked --package daemon --bin honed
	$(CARGO) run --release --locked --quiet --package daemon --bin honed -- demo $(ARGS)

serve: ## serve the built-in model on 127.0.0.1:8080 (ARGS="--listen 0.0.0.0:80")
	@.ci/deps build
	$(CARGO) run --release --locked --package daemon --bin honed -- serve $(ARGS)

# Binaries and tests are built in one go: apart, cargo would unify features differently and compile llama.cpp twice.
test: ## all tests, then other people's clients against the daemon
	@.ci/deps test
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --locked
	@tests/clients/run.sh

test-peers: ## lm-evaluation-harness against the trainer's numbers; takes 800 MB from PyPI
	@.ci/deps test
	$(CARGO) build --workspace --all-targets --locked
	@CARGO="$(CARGO)" tests/peers/run.sh

soak: ## 10,000 requests of 64 clients beside 1,000 idle connections (SOAK=N for another number)
	@.ci/deps build
	$(CARGO) build --workspace --all-targets --locked
	HONED_SOAK=$(or $(SOAK),10000) $(CARGO) test --workspace --test tests --locked -- --nocapture http_soak

golden: ## the reference numbers only; HONED_GOLDEN names another folder with more of them
	@.ci/deps build
	$(CARGO) test --workspace --test tests --locked -- golden

kill-test: ## kill a learning daemon KILLS=200 times under traffic and check what it promised (SEED=1 repeats the choices)
	@.ci/deps build
	$(CARGO) build --workspace --all-targets --locked
	HONED_KILLS=$(KILLS) HONED_SEED=$(SEED) $(CARGO) test --workspace --test tests --locked -- --nocapture random_kills

fuzz: ## SECONDS=600 of libFuzzer for each target: weight files, configuration, request bodies, rows of the log
	@.ci/deps build
	@CARGO="$(CARGO)" fuzz/run $(SECONDS) $(SEED)

# cargo deny's advisory database cannot be fetched everywhere, so only its offline checks, and only where it is installed.
lint: ## format, clippy, documentation, licences
	@.ci/deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --locked
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check bans licenses sources; \
	else echo "lint: cargo deny is not installed, licences and sources are not checked"; fi

cuda-check: ## compile the trainer's CUDA kernels (needs nvcc, no GPU) and fail on spills, stack frames and local memory
	@.ci/cuda-check

deps: ## install what building and testing need (apt, with sudo where needed)
	@.ci/deps test
