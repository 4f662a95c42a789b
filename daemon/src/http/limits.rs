//! What one request may take, in bytes and in time.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::error::ApiError;

/// Limits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// `daemon.header_bytes_max`.
    pub(crate) header_bytes_max: usize,
    /// `daemon.body_bytes_max`.
    pub(crate) body_bytes_max: usize,
    /// `daemon.body_timeout_s`.
    pub(crate) body_timeout_s: u64,
    /// `daemon.request_timeout_s`.
    pub(crate) request_timeout_s: u64,
}

impl Limits {
    /// As configured.
    pub(crate) fn new(daemon: &config::Daemon) -> Limits {
        Limits {
            header_bytes_max: daemon.header_bytes_max,
            body_bytes_max: daemon.body_bytes_max,
            body_timeout_s: daemon.body_timeout_s,
            request_timeout_s: daemon.request_timeout_s,
        }
    }

    /// What a whole request may take.
    pub(crate) fn request_timeout(self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    /// When a request that begins now has taken as long as it may.
    pub(crate) fn deadline(self) -> Deadline {
        Deadline { until: Instant::now() + self.request_timeout(), timeout_s: self.request_timeout_s }
    }
}

/// When a request has taken as long as it may, whatever it waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    until: Instant,
    timeout_s: u64,
}

impl Deadline {
    /// What comes of `work`, if it comes in time.
    pub(crate) async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        tokio::time::timeout_at(self.until, work).await.map_err(|_| ApiError::TimedOut(self.timeout_s))
    }
}
