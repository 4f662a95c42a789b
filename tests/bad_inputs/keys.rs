//! 37: keys that are none.

use super::bench::{COMPLETIONS, Case, JSON};

const GOOD: &[u8] = br#"{"prompt":"the","max_tokens":1}"#;

pub(super) const CASES: &[Case] = &[
    (37, "no key, a wrong one, a piece of one, another scheme, other letters", |b| {
        b.send("POST", COMPLETIONS, &[JSON], GOOD).error(401);
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer none",
            "Bearer user",
            "Bearer user-ke",
            "Bearer user-keyy",
            "Bearer USER-KEY",
            "Bearer user-key,root-key",
            "Bearer user-k\u{e9}y",
            "Bearer \u{1f511}",
            "Basic dXNlci1rZXk=",
            "user-key",
        ] {
            let reply = b.send("POST", COMPLETIONS, &[JSON, ("authorization", value)], GOOD);
            let error = reply.error(401);
            assert_eq!(
                (error["type"].as_str(), error["code"].as_str()),
                (Some("authentication_error"), Some("invalid_api_key"))
            );
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{value}");
            b.send("GET", "/v1/policies", &[("authorization", value)], b"").error(401);
        }
        let long = format!("Bearer {}", "k".repeat(50_000));
        b.send("POST", COMPLETIONS, &[JSON, ("authorization", &long)], GOOD).error(401);
    }),
    (37, "two keys at once, of which one is right", |b| {
        let (good, bad) = (("authorization", "Bearer user-key"), ("authorization", "Bearer none"));
        for two in [[good, bad], [bad, good], [good, good]] {
            b.send("POST", COMPLETIONS, &[JSON, two[0], two[1]], GOOD).error(401);
        }
    }),
    (37, "a key in the path, where logs would keep it", |b| {
        for query in ["key=user-key", "api_key=user-key", "access_token=user-key"] {
            b.send("POST", &format!("{COMPLETIONS}?{query}"), &[JSON], GOOD).error(401);
        }
        let log = std::fs::read_to_string(b.folder.path().join("honed.log")).expect("a log");
        assert!(!log.contains("user-key"), "{log}");
    }),
    (37, "a user's key on an administrator's route", |b| {
        let user = ("authorization", "Bearer user-key");
        for path in ["/v1/policies", "/v1/training", "/v1/rollouts", "/v1/policies/0"] {
            b.send("GET", path, &[user], b"").error(403);
        }
        b.send("POST", "/v1/policies/0/activate", &[user, JSON], b"{}").error(403);
        b.send("GET", "/v1/policies", &[("authorization", "bearer root-key")], b"").ok();
    }),
];
