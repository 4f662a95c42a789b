//! The `[daemon]` section.

use crate::rule::{HOSTS, LISTEN, NOT_EMPTY, ORIGINS, REMOTE_URL, TEXT, one_of, real, section, whole};

section! {
    /// The process.
    Daemon, "daemon" {
        /// Where to listen; port 0 picks a free one.
        listen: String => LISTEN;
        /// Folder of the rollout log and the versions.
        data_dir: String => NOT_EMPTY;
        /// Files with one key a line, read again at SIGHUP; keys may also stand in HONED_API_KEYS and HONED_ADMIN_KEYS in the environment, with commas or white space between them. Without any no key is needed (the admin routes then answer on loopback only).
        api_keys_file: String => TEXT;
        /// Files with one key a line, read again at SIGHUP; keys may also stand in HONED_API_KEYS and HONED_ADMIN_KEYS in the environment, with commas or white space between them. Without any no key is needed (the admin routes then answer on loopback only).
        admin_keys_file: String => TEXT;
        /// Names under which the daemon answers beside those of this machine (127.0.0.1, localhost); a page in a browser could otherwise reach it under a name of its own (DNS rebinding). Empty: only these where it listens on loopback and needs no key, else every name; *: every name.
        allowed_hosts: String => HOSTS;
        /// Bytes of one request body.
        body_bytes_max: usize => whole(1024, 1_073_741_824);
        /// Seconds that one request may take.
        request_timeout_s: u64 => whole(1, 86_400);
        /// Seconds that the headers of a request may take; also what an idle connection gets.
        header_timeout_s: u64 => whole(1, 3600);
        /// Seconds that the body of a request may take.
        body_timeout_s: u64 => whole(1, 3600);
        /// Seconds that a client may leave what is sent to it unread before the connection is cut.
        write_timeout_s: u64 => whole(1, 3600);
        /// Bytes of the start line and the headers of one request; beyond it 431.
        header_bytes_max: usize => whole(8192, 1_048_576);
        /// Headers of one request; beyond it 431.
        headers_max: usize => whole(10, 1000);
        /// Connections at once.
        connections_max: usize => whole(1, 1_000_000);
        /// Web pages of these origins may call the API and read its answers (CORS); empty: of none but the daemon's own.
        cors_origins: String => ORIGINS;
        /// Seconds that running requests get at shutdown; the learner, asked after them to end, gets what is left, at least 3. All has ended 5 seconds after them at the latest: what kills a daemon that does not stop should wait longer than both.
        drain_s: u64 => whole(0, 3600);
        /// Folder from which `POST /v1/policies` may load model files, and from no other; empty: from none.
        import_dir: String => TEXT;
        /// Bytes of one such file.
        import_bytes_max: u64 => whole(1024, 1_099_511_627_776);
        /// A file is refused that finds the live version's logged answers this much less likely, nats per token (random weights lose about the logarithm of the vocabulary); 0: no bound.
        import_loss_max: f64 => real(0.0, 100.0);
        /// Under ppo.gate = "strict" a file stands the trial of the gate beside the live version (ppo.gate_prompts questions, judged by the reward source) and is refused when it is worse; "observe" writes that down and lets it pass, "off" does not look. What becomes of a file when there is nothing to judge it with (nobody has asked anything yet, or nobody judges): "take", and its report says that it was not judged, or "refuse".
        import_unjudged: String => one_of(&["take", "refuse"]);
        /// What becomes of model files (.gguf, .safetensors) that appear in import_dir: nothing, kept as a version when they pass, or made live then.
        import_watch: String => one_of(&["off", "load", "promote"]);
        /// Milliseconds between two looks at import_dir; a file counts when two looks find it unchanged.
        import_poll_ms: u64 => whole(10, 3_600_000);
        /// Failpoints that are armed, for tests (policy/src/failpoint.rs); refused by a release build.
        failpoints: String => TEXT;
        /// Where spans of requests go, in OTLP's JSON over HTTP: a collector's http://host:4318/v1/traces; empty: nowhere. By default what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT names; what does not speak this there is warned of and gets nothing.
        traces_url: String => REMOTE_URL;
        /// Share of requests that are traced where their caller's traceparent does not decide.
        traces_share: f64 => real(0.0, 1.0);
        /// Form of the log on standard error.
        log_format: String => one_of(&["text", "json"]);
    }
}
