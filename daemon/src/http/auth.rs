//! Who may call what.
//!
//! With keys configured every `/v1` route wants one, and the admin routes want an admin key. Without any key the admin
//! routes answer on loopback only, and there only to requests that no browser sent on behalf of a foreign page:
//! a proxy's headers, a foreign `Host` (DNS rebinding) or a foreign `Origin` are refused.

use std::{net::SocketAddr, path::Path};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use policy::{checkpoint::Digest, engine::Tenant};
use ppo::rollout_log::Who;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{context::Context, error::ApiError, hosts::names_loopback, request_id::RequestId};

/// One secret. What is compared, in constant time, are digests: they have one length, where a comparison of texts tells by its
/// time whether that of the key was right.
struct Key {
    text: String,
    digest: Digest,
}

impl Key {
    fn new(text: &str) -> Key {
        Key { text: text.to_owned(), digest: Digest::of(text.as_bytes()) }
    }

    fn is(&self, sent: &Digest) -> Choice {
        self.digest.0.ct_eq(&sent.0)
    }
}

/// Secrets, all of which are looked at, whichever matches.
#[derive(Default)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// Those of a file, one a line, and others. Empty lines and lines that begin with `#` do not count; an empty path is no file.
    pub(crate) fn read(path: &str, others: &config::KeyList) -> std::io::Result<Keys> {
        let mut keys: Vec<Key> = others.iter().map(Key::new).collect();
        if path.is_empty() {
            return Ok(Keys(keys));
        }
        let text = std::fs::read_to_string(Path::new(path))?;
        let n_before = keys.len();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(Key::new));
        match keys.len() > n_before {
            true => Ok(Keys(keys)),
            // A file without a key would read as "no key needed", which nobody who wrote it meant.
            false => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the file holds no key")),
        }
    }

    /// One of them, for a command that is a client itself.
    pub(crate) fn any(&self) -> Option<String> {
        self.0.first().map(|key| key.text.clone())
    }

    /// Whether there is none, so that none is needed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, key: &[u8]) -> bool {
        let sent = Digest::of(key);
        self.0.iter().fold(Choice::from(0), |found, known| found | known.is(&sent)).into()
    }
}

/// All configured keys.
pub(crate) struct KeyRing {
    /// For generation, scoring and feedback.
    pub(crate) api: Keys,
    /// For versions and training; they open the API routes too.
    pub(crate) admin: Keys,
}

impl KeyRing {
    fn knows(&self, key: Option<&[u8]>) -> bool {
        self.api.is_empty() || key.is_some_and(|key| self.api.contains(key) | self.admin.contains(key))
    }

    /// Whose share of the engine a request with this key takes: every key has its own where there are several.
    fn tenant(&self, key: Option<&[u8]>) -> Tenant {
        let keys = || self.api.0.iter().chain(&self.admin.0);
        let Some(key) = key.filter(|_| keys().count() > 1) else {
            return Tenant::ANYBODY;
        };
        // As everywhere here, time does not tell which one it was.
        let (mut tenant, sent) = (Tenant::ANYBODY.0, Digest::of(key));
        for (number, known) in (1u32..).zip(keys()) {
            tenant.conditional_assign(&number, known.is(&sent));
        }
        Tenant(tenant)
    }

    /// Who sent a request that was let through: a digest of its key, if it is one of ours, and where it came from.
    fn name_of(&self, request: &Request) -> Who {
        let remote = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.to_string());
        let id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
        let key = bearer(request.headers()).filter(|key| self.api.contains(key) | self.admin.contains(key));
        match key {
            Some(key) => Who::key(key, remote, id),
            None => Who::local(remote, id),
        }
    }

    fn check_admin(&self, request: &Request) -> Result<(), ApiError> {
        if self.admin.is_empty() && self.api.is_empty() {
            return match is_local(request) {
                true => Ok(()),
                false => Err(ApiError::Forbidden(
                    "without keys (daemon.admin_keys_file, HONED_ADMIN_KEYS) this route answers on loopback only",
                )),
            };
        }
        // Also where there is no admin key at all: behind a proxy on this machine every client is local.
        match bearer(request.headers()) {
            Some(key) if self.admin.contains(key) => Ok(()),
            Some(key) if self.api.contains(key) => {
                Err(ApiError::Forbidden("this route needs an admin key (daemon.admin_keys_file, HONED_ADMIN_KEYS)"))
            }
            _ => Err(ApiError::NoKey),
        }
    }
}

/// Lets a request with a good key through.
pub(crate) async fn api(
    State(context): State<Context>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = bearer(request.headers());
    if !context.keys().knows(key) {
        return Err(ApiError::NoKey);
    }
    let tenant = context.keys().tenant(key);
    request.extensions_mut().insert(tenant);
    Ok(next.run(request).await)
}

/// Lets an administrator through, under the name that the audit log will have.
pub(crate) async fn admin(
    State(context): State<Context>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    context.keys().check_admin(&request)?;
    let who = context.keys().name_of(&request);
    request.extensions_mut().insert(who);
    Ok(next.run(request).await)
}

/// The key of `Authorization: Bearer KEY`; of two such headers none counts.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (all.next()?.as_bytes(), all.next()) else {
        return None;
    };
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
}

/// Whether a program on this machine sent the request for itself.
fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let headers = request.headers();
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    peer.is_some_and(|peer| peer.0.ip().to_canonical().is_loopback())
        && !proxied
        && headers.get(header::HOST).is_none_or(|host| names_loopback(host.as_bytes()))
        && headers.get(header::ORIGIN).is_none_or(|origin| match origin.as_bytes().strip_prefix(b"http://") {
            Some(host) => names_loopback(host),
            None => false,
        })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn ring(api: &[&str], admin: &[&str]) -> KeyRing {
        let keys = |list: &[&str]| Keys(list.iter().map(|key| Key::new(key)).collect());
        KeyRing { api: keys(api), admin: keys(admin) }
    }

    fn request(peer: &str, headers: &[(&str, &str)]) -> Request {
        let peer: SocketAddr = peer.parse().expect("an address");
        let mut builder = Request::builder().extension(ConnectInfo(peer));
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).expect("a request")
    }

    #[test]
    fn keys_match_whole_or_not_at_all() {
        let ring = ring(&["secret"], &["root"]);
        for (key, good) in [("secret", true), ("root", true), ("secre", false), ("secrets", false), ("", false)] {
            assert_eq!(ring.knows(Some(key.as_bytes())), good, "{key}");
        }
        assert!(!ring.knows(None));
    }

    #[test]
    fn every_key_is_a_tenant_where_there_are_several() {
        let several = ring(&["a", "b"], &["root"]);
        let tenant = |ring: &KeyRing, key: &str| ring.tenant(Some(key.as_bytes())).0;
        assert_eq!(["a", "b", "root", "c"].map(|key| tenant(&several, key)), [1, 2, 3, 0]);
        assert_eq!(several.tenant(None), Tenant::ANYBODY);
        assert_eq!(tenant(&ring(&["a"], &[]), "a"), 0, "who is alone shares with nobody");
    }

    #[test]
    fn two_authorization_headers_are_none() {
        let r = request("127.0.0.1:1", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(bearer(r.headers()), None);
        assert_eq!(bearer(request("127.0.0.1:1", &[("authorization", "bearer a")]).headers()), Some(&b"a"[..]));
    }

    #[test]
    fn without_keys_the_admin_routes_are_for_this_machine_only() {
        let ring = ring(&[], &[]);
        let ok = |peer, headers: &[(&str, &str)]| ring.check_admin(&request(peer, headers)).is_ok();
        assert!(ok("127.0.0.1:9", &[("host", "localhost:8080")]));
        assert!(ok("[::1]:9", &[("host", "[::1]:8080"), ("origin", "http://127.0.0.1:8080")]));
        assert!(!ok("10.0.0.7:9", &[("host", "localhost")]));
        assert!(!ok("127.0.0.1:9", &[("host", "evil.example")]), "DNS rebinding");
        assert!(!ok("127.0.0.1:9", &[("host", "127.0.0.1.evil.example")]), "DNS rebinding");
        assert!(!ok("127.0.0.1:9", &[("origin", "http://evil.example")]), "a foreign page");
        assert!(!ok("127.0.0.1:9", &[("origin", "null")]), "a sandboxed page");
        assert!(!ok("127.0.0.1:9", &[("x-forwarded-for", "10.0.0.7")]), "a proxy");
    }

    #[test]
    fn an_administrator_is_named_by_a_digest_of_a_key_that_counts() {
        let name = |ring: &KeyRing, key: &str| {
            ring.name_of(&request("127.0.0.1:9", &[("authorization", &format!("Bearer {key}"))]))
        };
        let keyed = ring(&[], &["root"]);
        // The first digits of `printf root | sha256sum`.
        assert_eq!(name(&keyed, "root").actor, "key:4813494d");
        assert_eq!(name(&keyed, "root").remote.as_deref(), Some("127.0.0.1:9"));
        assert_eq!(name(&ring(&[], &[]), "root").actor, "local", "a key that nobody asked for proves nothing");
    }

    #[test]
    fn an_api_key_is_no_admin_key() {
        let ring = ring(&["user"], &["root"]);
        let check =
            |key: &str| ring.check_admin(&request("127.0.0.1:9", &[("authorization", &format!("Bearer {key}"))]));
        assert!(check("root").is_ok());
        assert!(matches!(check("user"), Err(ApiError::Forbidden(_))));
        assert!(matches!(check("other"), Err(ApiError::NoKey)));
    }
}
