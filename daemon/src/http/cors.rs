//! Which web pages may call the API: those of the origins in `daemon.cors_origins`, and without any nothing is said to
//! browsers at all, so that they keep every foreign page away.
//!
//! Keys travel in `Authorization`, which a page must hold to send; cookies mean nothing here, so credentials stay off. The
//! admin routes have their own guard: without an admin key a listed page does not reach them either.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::{context::VERSION_HEADER, request_id::REQUEST_ID_HEADER, scoring::REWARD_VERSION_HEADER};

/// How long a browser may remember that it was allowed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The layer, where origins are listed; `config` has checked their form.
pub(crate) fn layer(origins: &str) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins.split(',').filter_map(|origin| origin.trim().parse().ok()).collect();
    let origins: Vec<HeaderValue> = origins.into_iter().filter(|origin| !origin.is_empty()).collect();
    if origins.is_empty() {
        return None;
    }
    // Clients send headers of their own beside ours (OpenAI's: X-Stainless-*), and a browser gives up the whole call for
    // one that is missing here. The guard is the list of origins, and no header opens what a key or an origin does not.
    let sent = AllowHeaders::mirror_request();
    let read = [
        VERSION_HEADER,
        REWARD_VERSION_HEADER,
        REQUEST_ID_HEADER,
        header::RETRY_AFTER,
        HeaderName::from_static("x-should-retry"),
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(sent)
            .expose_headers(read)
            .max_age(MAX_AGE),
    )
}
