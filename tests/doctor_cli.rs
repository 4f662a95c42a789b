//! `honed doctor`: what it says of a machine, and that it fails where something does not hold.

use std::process::{Command, Output};

use crate::harness::process::{self, Process};

fn doctor(args: &[&str]) -> Output {
    let data = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(process::binary());
    command.args(["doctor", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path()).args(args);
    command.output().expect("the binary runs")
}

/// Goal: everything that it looks at is named, and one thing that does not hold is its own line and the exit status. Method: ask for
/// a GPU that no machine has.
#[test]
fn a_missing_device_is_told_beside_what_is_well() {
    let output = doctor(&["--set", "ppo.device=cuda:255"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for what in ["program", "processor", "memory", "llama.cpp on", "training", "configuration", "address", "model"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("ok    {what}"))), "{what}: {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("ok    llama.cpp on") && line.contains("CPU: ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("FAIL  ppo.device      cuda:255: ")), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of these did not hold"), "{text}");
}

/// Goal: beside the daemon whose folder it is, its address is as it should be; beside another one it is not. Method: one daemon, and
/// a doctor of its folder and of another that both name its address.
#[test]
fn the_folders_own_daemon_is_no_fault() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Process::serve(data.path(), &["ppo.enabled=false"]);
    let address = daemon.address.to_string();
    let line = |data: &std::path::Path| {
        let mut command = Command::new(process::binary());
        command.args(["doctor", "--listen", &address, "--data-dir"]).arg(data);
        let output = command.output().expect("the binary runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let line = text.lines().find(|line| line.contains("  address ")).expect("a line of the address").to_owned();
        (output.status.success(), line)
    };
    let (is_well, own) = line(data.path());
    assert!(is_well && own.starts_with("ok    address"), "{own}");
    assert!(own.contains("this folder's daemon") && own.contains(&address), "{own}");
    let (is_well, foreign) = line(&data.path().join("other"));
    assert!(!is_well && foreign.starts_with("FAIL  address"), "{foreign}");
}
