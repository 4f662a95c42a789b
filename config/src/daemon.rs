//! The `[daemon]` section.

use crate::rule::{LISTEN, NOT_EMPTY, TEXT, one_of, section, whole};

section! {
    /// The process.
    Daemon, "daemon" {
        /// Where to listen; port 0 picks a free one.
        listen: String => LISTEN;
        /// Folder of the rollout log and the versions.
        data_dir: String => NOT_EMPTY;
        /// Files with one key a line; empty: no key needed (the admin routes then answer on loopback only).
        api_keys_file: String => TEXT;
        /// Files with one key a line; empty: no key needed (the admin routes then answer on loopback only).
        admin_keys_file: String => TEXT;
        /// Bytes of one request body.
        body_bytes_max: usize => whole(1024, 1_073_741_824);
        /// Seconds that one request may take.
        request_timeout_s: u64 => whole(1, 86_400);
        /// Seconds that the headers of a request may take.
        header_timeout_s: u64 => whole(1, 3600);
        /// Connections at once.
        connections_max: usize => whole(1, 1_000_000);
        /// Seconds that running requests get at shutdown.
        drain_s: u64 => whole(0, 3600);
        /// Form of the log on standard error.
        log_format: String => one_of(&["text", "json"]);
    }
}
