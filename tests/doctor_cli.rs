//! `honed doctor`: what it says of a machine, and that it fails where something does not hold.

use std::process::{Command, Output};

use crate::harness::process;

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
