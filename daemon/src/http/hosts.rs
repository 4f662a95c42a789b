//! Under which names the daemon answers.
//!
//! A page in a browser may have its own name resolve to 127.0.0.1 and then call whatever listens there as if it were its own
//! server (DNS rebinding); no rule of the browser stands against it, because to the browser the origin is the same. What is
//! left is the name in `Host`. It is looked at where that attack leads somewhere: on a daemon that listens on loopback and asks
//! for no key. A program that names no host is no browser.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};

use super::{context::Context, error::ApiError};

/// The names of `daemon.allowed_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedHosts {
    /// Every name.
    Any,
    /// Those of this machine, and these.
    Only(Vec<String>),
}

impl AllowedHosts {
    /// As configured, for a daemon at this address; `is_open`: it asks for no key.
    pub(crate) fn new(configured: &str, address: SocketAddr, is_open: bool) -> AllowedHosts {
        match configured {
            "*" => AllowedHosts::Any,
            "" if is_open && address.ip().to_canonical().is_loopback() => AllowedHosts::Only(Vec::new()),
            "" => AllowedHosts::Any,
            names => AllowedHosts::Only(names.split(',').map(|name| name.trim().to_ascii_lowercase()).collect()),
        }
    }

    fn admits(&self, host: &[u8]) -> bool {
        let AllowedHosts::Only(names) = self else { return true };
        let name = std::str::from_utf8(host).map(|host| without_port(host).to_ascii_lowercase());
        names_loopback(host) || name.is_ok_and(|name| names.contains(&name))
    }

    /// Every name that the request gives: of several `Host` lines, and of a target that names a server itself.
    fn admit(&self, request: &Request) -> bool {
        let target = request.uri().authority().map(|authority| authority.host());
        request.headers().get_all(header::HOST).iter().all(|host| self.admits(host.as_bytes()))
            && target.is_none_or(|host| self.admits(host.as_bytes()))
    }
}

/// Refuses a request under a foreign name.
pub(crate) async fn guard(State(context): State<Context>, request: Request, next: Next) -> Result<Response, ApiError> {
    match context.allowed_hosts().admit(&request) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::Forbidden("this daemon does not answer under that host name (daemon.allowed_hosts)")),
    }
}

/// Whether a `Host`, with its port or without, is this machine seen from itself.
pub(crate) fn names_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = without_port(host).trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `[::1]` of `[::1]:8080`, `chat.example` of `chat.example:80`.
fn without_port(host: &str) -> &str {
    match host.find(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split(':').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn hosts(configured: &str, address: &str, is_open: bool) -> AllowedHosts {
        AllowedHosts::new(configured, address.parse().expect("an address"), is_open)
    }

    #[test]
    fn names_are_looked_at_where_a_page_could_do_harm() {
        assert_eq!(hosts("", "127.0.0.1:80", true), AllowedHosts::Only(vec![]));
        assert_eq!(hosts("", "[::1]:80", true), AllowedHosts::Only(vec![]));
        assert_eq!(hosts("", "127.0.0.1:80", false), AllowedHosts::Any);
        assert_eq!(hosts("", "0.0.0.0:80", true), AllowedHosts::Any);
        assert_eq!(hosts("*", "127.0.0.1:80", true), AllowedHosts::Any);
        assert_eq!(hosts("A.example", "0.0.0.0:80", false), AllowedHosts::Only(vec!["a.example".to_owned()]));
    }

    #[test]
    fn this_machine_and_listed_names_pass() {
        let hosts = hosts("chat.example, [fd00::1]", "127.0.0.1:80", true);
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "Chat.Example:443", "[fd00::1]:9"] {
            assert!(hosts.admits(good.as_bytes()), "{good}");
        }
        for bad in
            [&b"evil.example"[..], b"127.0.0.1.evil.example", b"a.chat.example", b"[fd00::2]", b"", b"\xff", b"::1:80"]
        {
            assert!(!hosts.admits(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let hosts = hosts("", "127.0.0.1:80", true);
        let request = |uri: &str, names: &[&str]| {
            let builder = names.iter().fold(Request::builder().uri(uri), |b, name| b.header("host", *name));
            hosts.admit(&builder.body(Body::empty()).expect("a request"))
        };
        assert!(request("/", &[]) && request("/", &["localhost"]) && request("http://127.0.0.1/", &["localhost"]));
        assert!(!request("/", &["localhost", "evil.example"]));
        assert!(!request("http://evil.example/", &["localhost"]));
    }
}
