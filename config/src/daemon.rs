//! The `[daemon]` section.

use serde::Deserialize;

/// The process.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// Folder of the rollout log and the versions.
    pub data_dir: String,
    /// Files with one key a line; empty: no key needed (the admin routes then answer on loopback only).
    pub api_keys_file: String,
    /// Files with one key a line; empty: no key needed (the admin routes then answer on loopback only).
    pub admin_keys_file: String,
    /// Bytes of one request body. 1024..=1073741824
    pub body_bytes_max: usize,
    /// Seconds that one request may take. 1..=86400
    pub request_timeout_s: u64,
    /// Seconds that the headers of a request may take. 1..=3600
    pub header_timeout_s: u64,
    /// Connections at once. 1..=1000000
    pub connections_max: usize,
    /// Seconds that running requests get at shutdown. 0..=3600
    pub drain_s: u64,
    /// "text" or "json".
    pub log_format: String,
}
