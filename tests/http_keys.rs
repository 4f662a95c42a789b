//! Keys from files and from the environment, read again while the daemon runs; and host names that are not ours.

use std::{io::Write, net::SocketAddr, process::Command};

use serde_json::json;

use crate::harness::{
    TestDaemon,
    client::{self, Reply, request},
    process::{self, Process},
};

const JSON: (&str, &str) = ("content-type", "application/json");

fn asks(address: SocketAddr, path: &str, key: &str) -> Reply {
    let authorization = format!("Bearer {key}");
    client::raw(address, &request("GET", path, &[("authorization", &authorization)], b""))
}

/// Behind a proxy on this machine every client is local: its key must not open the admin routes.
#[test]
fn a_clients_key_is_no_admin_key_where_there_is_none() {
    let daemon = TestDaemon::builder().keys("daemon.api_keys_file", "user-key\n").start();
    asks(daemon.address(), "/v1/models", "user-key").ok();
    let error = asks(daemon.address(), "/v1/policies", "user-key").error(403);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("HONED_ADMIN_KEYS")), "{error}");
    asks(daemon.address(), "/v1/policies", "other").error(401);
}

/// Goal: keys of both places count, those of the file change at SIGHUP, and none is ever written anywhere. Method: the process
/// with both, the file rewritten, a bad file, and its whole log.
#[test]
fn keys_come_from_files_and_from_the_environment_and_are_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let (keys, log) = (folder.path().join("keys"), folder.path().join("log"));
    std::fs::write(&keys, "# ours\nfile-key-1\n").expect("a file");
    let file = format!("daemon.api_keys_file={}", keys.display());
    let environment = [("HONED_API_KEYS", "env-key-1, env-key-2"), ("HONED_ADMIN_KEYS", "env-root")];
    let mut command = Command::new(process::binary());
    command.envs(environment).env("RUST_LOG", "trace");
    command.stderr(std::fs::File::create(&log).expect("a file"));
    let daemon = Process::spawn(command, &data, &["ppo.enabled=false", &file]);
    for good in ["file-key-1", "env-key-1", "env-key-2", "env-root"] {
        assert_eq!(asks(daemon.address, "/v1/models", good).status, 200, "{good}");
    }
    for bad in ["env-key-1,", "env-key", "", "file-key-2", "# ours"] {
        asks(daemon.address, "/v1/models", bad).error(401);
    }
    asks(daemon.address, "/v1/policies", "env-root").ok();
    asks(daemon.address, "/v1/policies", "file-key-1").error(403);

    let waits_for = |key: &str, status: u16| {
        let began = std::time::Instant::now();
        while asks(daemon.address, "/v1/models", key).status != status {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "waited in vain for {status} with {key}");
        }
    };
    std::fs::write(&keys, "file-key-2\n").expect("a file");
    daemon.signal(libc::SIGHUP);
    waits_for("file-key-2", 200);
    asks(daemon.address, "/v1/models", "file-key-1").error(401);
    asks(daemon.address, "/v1/models", "env-key-1").ok();
    std::fs::write(&keys, "# none\n").expect("a file");
    daemon.signal(libc::SIGHUP);
    let told = || std::fs::read_to_string(&log).expect("the log").contains("the keys stay as they are");
    while !told() {
        std::thread::yield_now();
    }
    asks(daemon.address, "/v1/models", "file-key-2").ok();
    drop(daemon);

    let log = std::fs::read_to_string(&log).expect("the log");
    let print = Command::new(process::binary()).args(["config", "print", "--set", &file]).envs(environment).output();
    let print = String::from_utf8(print.expect("the binary runs").stdout).expect("UTF-8");
    assert!(print.contains("api_keys_file"), "{print}");
    for secret in ["file-key", "env-key", "env-root"] {
        assert!(!log.contains(secret) && !print.contains(secret), "{secret} is written somewhere");
    }
}

#[test]
fn a_variable_without_a_key_is_refused() {
    let data = tempfile::tempdir().expect("a folder");
    let mut serve = Command::new(process::binary());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path()).env("HONED_API_KEYS", " , ");
    let output = serve.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HONED_API_KEYS"));
}

/// Goal: a page that has its own name resolve to this machine reaches nothing. Method: that name on a route of every kind; then a
/// daemon that lists it, one that asks for keys, and one that lets every name in.
#[test]
fn foreign_host_names_reach_nothing_without_keys() {
    let under = |daemon: &TestDaemon, name: &str, method: &str, path: &str, body: &str| {
        let bytes = String::from_utf8(request(method, path, &[JSON], body.as_bytes())).expect("text");
        client::raw(daemon.address(), bytes.replace("host: 127.0.0.1", &format!("host: {name}")).as_bytes())
    };
    let ask = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let routes = [
        ("POST", "/v1/completions", ask.as_str()),
        ("GET", "/v1/models", ""),
        ("GET", "/metrics", ""),
        ("GET", "/livez", ""),
        ("GET", "/", ""),
        ("GET", "/v1/policies", ""),
        ("GET", "/nowhere", ""),
        ("OPTIONS", "/v1/models", ""),
    ];
    let plain = TestDaemon::start();
    for (method, path, body) in routes {
        let error = under(&plain, "evil.example:8080", method, path, body).error(403);
        assert!(error["message"].as_str().is_some_and(|text| text.contains("daemon.allowed_hosts")), "{path}: {error}");
    }
    for name in ["localhost:1234", "[::1]", "127.0.0.1:80"] {
        assert_eq!(under(&plain, name, "GET", "/v1/models", "").status, 200, "{name}");
    }
    let listing = TestDaemon::builder().set("daemon.allowed_hosts=chat.example").start();
    assert_eq!(under(&listing, "chat.example", "POST", "/v1/completions", &ask).status, 200);
    under(&listing, "evil.example", "POST", "/v1/completions", &ask).error(403);
    let open = TestDaemon::builder().set("daemon.allowed_hosts=*").start();
    assert_eq!(under(&open, "evil.example", "POST", "/v1/completions", &ask).status, 200);

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("keys"), "secret\n").expect("written");
    let keys = format!("daemon.api_keys_file={}", folder.path().join("keys").display());
    let keyed = TestDaemon::builder().set(keys).start();
    under(&keyed, "chat.example", "GET", "/v1/models", "").error(401);
    assert_eq!(under(&keyed, "chat.example", "GET", "/livez", "").status, 200);
}

/// Goal: a key of which nothing waits is let in although another has filled the queue, with a small request and with one at a time.
/// Method: one slot and a queue that one choice fills; nine of one key's, and the other key's after them.
#[test]
fn one_keys_requests_never_shut_another_key_out() {
    let daemon = TestDaemon::builder()
        .keys("daemon.api_keys_file", "one\nother\n")
        .set("policy.parallel=1")
        .set("policy.max_queue_tokens=1")
        .start();
    let send = |key: &str, n: u32, max_tokens: u32| {
        let authorization = format!("Bearer {key}");
        let body = json!({"prompt": "a", "n": n, "max_tokens": max_tokens, "ignore_eos": true}).to_string();
        let mut socket = client::connect(daemon.address());
        let headers = [JSON, ("authorization", authorization.as_str())];
        socket.write_all(&request("POST", "/v1/completions", &headers, body.as_bytes())).expect("sent");
        socket
    };
    let heavy = send("one", 60, 250);
    daemon.wait_for("choices wait", |d| d.metric("honed_num_requests_waiting") == 1.0);
    daemon.wait_for("one is drawn", |d| d.metric("honed_num_requests_running") == 1.0);
    for (key, n) in [("one", 1), ("other", 9)] {
        let refused = client::ask(send(key, n, 1), b"");
        assert_eq!(refused.error(429)["code"], "queue_full", "{n} of {key}");
    }
    client::ask(send("other", 1, 1), b"").ok();
    drop(heavy);
}
