//! The collector of traces under the names that every program of OpenTelemetry knows it by; a name of ours comes before them.
//!
//! These variables are set for a whole machine or pod, by somebody who may never have heard of this program. So what it cannot use
//! of them stops no command: whoever serves is told, and nothing is traced. A name of ours that is wrong is an error like any other.

use std::collections::BTreeMap;

use crate::rule::REMOTE_URL;

const FULL: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
/// Where collectors listen for OTLP over gRPC.
const GRPC_PORT: &str = "4317";

/// What the environment says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Collector {
    /// Nothing, or something that a name of ours overrides.
    None,
    /// Where spans go, and which variable says so.
    Usable { variable: &'static str, url: String },
    /// Why none can be sent.
    Unusable(String),
}

/// Finds it.
pub(crate) fn of(environment: &BTreeMap<String, String>) -> Collector {
    let set = |name: &str| environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let is_off = set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    if is_off || environment.contains_key("HONED__DAEMON__TRACES_URL") {
        return Collector::None;
    }
    let full = set(FULL).map(|text| (FULL, text, text.to_owned()));
    let base = || set(BASE).map(|text| (BASE, text, format!("{}/v1/traces", text.trim_end_matches('/'))));
    let Some((variable, text, url)) = full.or_else(base) else { return Collector::None };
    let protocol = PROTOCOLS.into_iter().find_map(|name| Some((name, set(name)?)));
    // Both forms of OTLP over HTTP have one port and one path.
    let speaks_grpc = protocol.map_or(port(&url) == Some(GRPC_PORT), |(_, protocol)| protocol == "grpc");
    if REMOTE_URL.admit(url.clone().into()).is_some() && !speaks_grpc {
        return Collector::Usable { variable, url };
    }
    let protocol = protocol.filter(|_| speaks_grpc).map(|(name, protocol)| format!(" ({name}={protocol})"));
    Collector::Unusable(format!(
        "traces are not sent: {variable} is {text}{}, and honed speaks OTLP as JSON over plain HTTP; daemon.traces_url \
         overrides it",
        protocol.unwrap_or_default()
    ))
}

/// `4317` of `http://host:4317/v1/traces`.
fn port(url: &str) -> Option<&str> {
    url.strip_prefix("http://")?.split('/').next()?.rsplit_once(':').map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(env: &[(&str, &str)]) -> Collector {
        of(&env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_speaks_grpc_is_not_taken_for_http() {
        let usable = |env: &[(&str, &str)]| matches!(told(env), Collector::Usable { .. });
        let [of_traces, protocol] = PROTOCOLS;
        for good in [
            &[(BASE, "http://c:4318")][..],
            &[(BASE, "http://c")],
            &[(BASE, "http://c:4317"), (protocol, "http/protobuf")],
            &[(BASE, "http://c:4318"), (protocol, "grpc"), (of_traces, "http/json")],
            &[(FULL, "http://[::1]:4318/v1/traces")],
        ] {
            assert!(usable(good), "{good:?}");
        }
        for bad in [
            &[(BASE, "http://c:4317")][..],
            &[(BASE, "http://c:4317/")],
            &[(FULL, "http://[::1]:4317/v1/traces")],
            &[(BASE, "http://c:4318"), (protocol, "grpc")],
            &[(BASE, "https://c:4318")],
            &[(BASE, "c:4317")],
        ] {
            assert!(!usable(bad), "{bad:?}");
        }
        let Collector::Unusable(why) = told(&[(BASE, "http://c:9"), (protocol, "grpc")]) else {
            panic!("it speaks gRPC");
        };
        assert!(
            why.contains(&format!("{BASE} is http://c:9 ({protocol}=grpc), and honed speaks OTLP as JSON")),
            "{why}"
        );
    }
}
