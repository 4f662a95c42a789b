//! Knobs of the learner through the front door: text from a file, answers in groups, guard rails.

use std::sync::{Arc, atomic::AtomicI64};

use serde_json::{Value, json};

use crate::{
    harness::{Builder, TestDaemon, process},
    planted_reward::{reward_server, serve},
};

/// A learner that updates after eight rollouts, judged by a server.
fn learner() -> Builder {
    let url = format!("http://{}/get_reward", reward_server(Arc::new(AtomicI64::new(1))));
    TestDaemon::builder()
        .set("ppo.enabled=true")
        .set("reward.source=remote")
        .set(format!("reward.remote_url={url}"))
        .set("ppo.rollouts_per_update=8")
        .set("ppo.minibatch=4")
        .set("ppo.policy_learning_rate=1e-3")
        .set("ppo.warmup_updates=0")
}

/// One request for `n` answers.
fn ask(daemon: &TestDaemon, prompt: &str, n: u64, seed: u64) {
    let body = json!({ "prompt": prompt, "n": n, "max_tokens": 8, "temperature": 1.0, "seed": seed });
    daemon.post("/v1/completions", &body).ok();
}

fn updates(daemon: &TestDaemon) -> Vec<Value> {
    daemon.get("/v1/training").ok()["history"].as_array().expect("a list").clone()
}

#[test]
fn text_from_a_file_is_mixed_into_every_update() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.jsonl");
    let lines = ["the ocean is vast and deep", "a bear goes to the beach", "what color is the sky"];
    let text: String = lines.iter().map(|line| format!("{}\n", json!({ "text": line }))).collect();
    std::fs::write(&file, text).expect("a file");
    let daemon = learner().set("ppo.ptx=auto").set(format!("ppo.ptx_file={}", file.display())).start();
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    let update = updates(&daemon).remove(0);
    assert_eq!(update["outcome"], "promoted", "{update}");
    let number = |name: &str| update["numbers"][name].as_f64().unwrap_or(f64::NAN);
    assert!(number("ptx/coef") > 0.0 && number("ptx/loss") > 0.0 && number("ptx/norm_ratio") > 0.0, "{update}");
    assert!(daemon.metric("honed_ptx_coef") > 0.0);
    assert!(
        daemon.get("/metrics").text().contains("honed_guard_trips_total{action=\"skip_round\",guard=\"skip_kl\"} 0")
    );
    daemon.stop();
}

#[test]
fn text_that_cannot_be_read_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.jsonl");
    let refusal = |content: Option<&str>| {
        if let Some(content) = content {
            std::fs::write(&file, content).expect("a file");
        }
        let data = tempfile::tempdir().expect("a folder");
        let builder = learner().set("ppo.ptx=auto").set(format!("ppo.ptx_file={}", file.display()));
        builder.try_start(data.path()).err().expect("no text to learn from").to_string()
    };
    for (content, word) in
        [(None, "ppo.ptx_file"), (Some("{\"text\": \"a\"}\n{\"txt\": 1}"), "line 2"), (Some(" \n"), "no text")]
    {
        let error = refusal(content);
        assert!(error.contains(word) && error.contains("ppo.ptx_file"), "{error}");
    }
    let builder = learner().set("ppo.ptx=auto").set(format!("ppo.ptx_file={}", file.display()));
    let data = tempfile::tempdir().expect("a folder");
    let refused = builder.set("ppo.ptx_tokens=100000").try_start(data.path()).err().expect("longer than the context");
    let refused = refused.to_string();
    assert!(refused.contains("ppo.ptx_tokens = 100000") && refused.contains("the model's context of"), "{refused}");
}

/// Goal: the gate knows what a candidate forgot of a text that nothing learns from. Method: a file, and ppo.ptx left off.
#[test]
fn a_text_measures_what_was_forgotten_without_being_mixed_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "the ocean is vast and deep\n\n".repeat(20)).expect("a file");
    let daemon = learner().set(format!("ppo.ptx_file={}", file.display())).start();
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    let numbers = updates(&daemon).remove(0)["numbers"].clone();
    assert!(numbers["gate/ptx_rise"].as_f64().is_some_and(|rise| rise != 0.0), "{numbers}");
    assert!(numbers["ptx/coef"].as_f64().is_none_or(|coef| coef == 0.0), "{numbers}");
    daemon.stop();
}

/// Goal: nobody believes that a text is mixed in or measured on when it is not, or held out when it is learnt from. Method: the real
/// daemon, told of a file that nobody reads, and of one that is too short to spare anything.
#[test]
fn a_text_that_does_not_do_what_it_is_for_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, file) = (folder.path().join("log"), folder.path().join("text.txt"));
    std::fs::write(&file, "the ocean is vast\n\n".repeat(15)).expect("a file");
    let judge = format!("http://{}/get_reward", reward_server(Arc::new(AtomicI64::new(1))));
    let (remote, short) = (format!("reward.remote_url={judge}"), format!("ppo.ptx_file={}", file.display()));
    let unread = ["ppo.ptx_file=text.jsonl", "ppo.gate=off"];
    for (data, [first, second], told) in [
        ("unread", unread, "ppo.ptx_file is not read, because ppo.ptx and ppo.gate are off"),
        ("short", [short.as_str(), "ppo.ptx=auto"], "too short to hold some of it out"),
    ] {
        let sets = ["reward.source=remote", &remote, first, second];
        drop(process::Process::serve_logged(&folder.path().join(data), &sets, &log, "warn"));
        let log = std::fs::read_to_string(&log).expect("a log");
        assert_eq!(log.matches(told).count(), 1, "{log}");
    }
}

/// Goal: length costs what the knob says, and it is told what that came to. Method: a daemon in which every token costs.
#[test]
fn every_token_of_an_answer_costs_what_the_knob_says() {
    let daemon = learner().set("ppo.length_penalty=0.25").start();
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    let numbers = updates(&daemon).remove(0)["numbers"].clone();
    let number = |name: &str| numbers[name].as_f64().unwrap_or(f64::NAN);
    let taken = 0.25 * number("completions/mean_length");
    assert!(taken > 0.0 && (number("objective/length_penalty") - taken).abs() < 1e-9, "{numbers}");
    assert!((daemon.metric("honed_objective_length_penalty") - taken).abs() < 1e-9);
    daemon.stop();
}

/// Goal: several answers to one request are a group, one that is alone is not. Method: two requests for four answers, which are
/// enough for a round, and four for one.
#[test]
fn answers_to_one_request_are_compared_and_a_lone_one_says_why_it_does_not_train() {
    let daemon = learner().set("ppo.advantage_estimator=rloo").set("ppo.rollouts_per_update=12").start();
    for (prompt, n) in
        [("the ocean", 4), ("a bear", 4), ("what color", 1), ("the sky", 1), ("a day", 1), ("the sea", 1)]
    {
        ask(&daemon, prompt, n, 5);
    }
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    let update = updates(&daemon).remove(0);
    assert_eq!((&update["numbers"]["singletons"], &update["numbers"]["steps/value"]), (&json!(4.0), &json!(0.0)));
    assert_eq!(update["outcome"], "promoted", "{update}");
    let rows = daemon.get("/v1/rollouts?limit=100").ok();
    let reasons = rows["data"].as_array().expect("rows").iter().filter(|row| row["reason"] == "singleton").count();
    assert_eq!(reasons, 4);
    daemon.stop();
}

/// Goal: without the pass of the old policy a daemon learns, and what nobody has measured is not shown. Method: an update of a daemon
/// that computes the old log-probs, and one after a restart that guesses them.
#[test]
fn what_is_not_measured_any_more_is_not_shown() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = learner().try_start(data.path()).expect("a daemon");
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    assert!(daemon.metric("honed_sampling_ess") > 0.9);
    daemon.stop();
    let sets = ["ppo.proximal=log_linear", "ppo.importance=token_truncate"];
    let daemon =
        sets.into_iter().fold(learner(), |builder, set| builder.set(set)).try_start(data.path()).expect("a daemon");
    assert!(daemon.get("/metrics").text().contains("honed_sampling_ess "), "of the newest update, before the restart");
    (8..16).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("another update", |daemon| updates(daemon).len() == 2);
    let update = updates(&daemon).remove(1);
    assert_eq!(update["outcome"], "promoted", "{update}");
    let numbers = update["numbers"].as_object().expect("numbers");
    assert!(!numbers.contains_key("sampling/ess") && !numbers.contains_key("objective/entropy"), "{update}");
    assert!(numbers["parity/tokens"].as_f64() > Some(0.0), "the candidate is still held against the engine: {update}");
    assert!(daemon.metric("honed_first_minibatch_ess") > 0.9);
    assert!(!daemon.get("/metrics").text().contains("honed_sampling_ess"), "the newest update knows none");
    daemon.stop();
}

/// Goal: with `ppo.lora_rank` a version is a small file beside version 0, serves, learns on and survives a restart, and the
/// command line makes a whole model of it. Method: two updates, a restart, an export; the same prompt at temperature 0.
#[test]
fn adapters_are_published_served_and_exported() {
    let data = tempfile::tempdir().expect("a folder");
    let start = || learner().set("ppo.lora_rank=4").try_start(data.path()).expect("a daemon");
    let daemon = start();
    (0..16).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("two updates", |daemon| updates(daemon).len() >= 2);
    let promoted = updates(&daemon).iter().filter(|update| update["outcome"] == "promoted").count();
    assert_eq!(promoted, 2, "{:?}", updates(&daemon));
    let rates = updates(&daemon).remove(0)["numbers"].clone();
    let rates = ["lr", "lr_value", "lr_value_head"].map(|name| rates[name].as_f64().unwrap_or(f64::NAN));
    assert_eq!(rates, [1e-3, 5e-5, 1e-4], "those of adapters, but for the one that was named");
    let greedy = |daemon: &TestDaemon| {
        let body = json!({ "prompt": "the ocean", "max_tokens": 12, "temperature": 0 });
        let answer = daemon.post("/v1/completions", &body).ok();
        (answer["system_fingerprint"].clone(), answer["choices"][0]["text"].clone())
    };
    let said = greedy(&daemon);
    assert_eq!(said.0, "policy@2");
    daemon.stop();
    let size = |n: u64| {
        let file = data.path().join(format!("versions/policy-{n}.gguf"));
        std::fs::metadata(file).expect("a file").len()
    };
    assert!(size(2) < size(0) / 2, "{} {}", size(2), size(0));
    let daemon = start();
    assert_eq!(greedy(&daemon), said);
    daemon.stop();
    let whole = data.path().join("whole.gguf");
    let arguments = ["policies", "export", "2", "--data-dir", path(data.path()), "--out", path(&whole)];
    let export = || std::process::Command::new(process::binary()).args(arguments).output().expect("honed runs");
    let first = export();
    assert!(first.status.success(), "{first:?}");
    assert!(!export().status.success(), "a file that is there is not touched");
    let daemon = TestDaemon::builder().set(format!("policy.model={}", whole.display())).start();
    assert_eq!(greedy(&daemon).1, said.1);
    daemon.stop();
}

/// Goal: whoever looks at the versions is told which is an average, of what, and how it did; it serves once an operator wants it, and
/// learning goes on from it. Method: an update, its average, the API, the metrics and every command; an activation; another update.
#[test]
fn an_average_of_the_weights_is_judged_told_of_and_activated_by_hand() {
    let data = tempfile::tempdir().expect("a folder");
    let knobs = ["ppo.ema_decay=0.5", "ppo.ema_judge_every=1", "ppo.gate=observe", "ppo.watch_rollouts=0"];
    let daemon = knobs.iter().fold(learner(), |learner, knob| learner.set(*knob)).start_in(data.path());
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    let row = |daemon: &TestDaemon| daemon.get("/v1/policies").ok()["data"].get(2).cloned().unwrap_or_default();
    daemon.wait_for("a judged average", |daemon| row(daemon)["state"] == "retained");
    let shown = row(&daemon);
    assert_eq!(shown["average"], json!({ "first": 0, "last": 1, "decay": 0.5 }), "{shown}");
    assert_eq!((&shown["parent"], &shown["update"], &shown["rollouts"]), (&json!(1), &json!(null), &json!(0)));
    assert_eq!(daemon.get("/v1/policies/1").ok()["average"], json!(null));
    let difference = shown["numbers"]["gate/reward_difference"].as_f64().expect("a trial");
    daemon.wait_for("its metrics", |daemon| daemon.metric("honed_averages_total{outcome=\"retained\"}") == 1.0);
    assert_eq!(daemon.metric("honed_average_reward_difference"), difference);

    let told = |arguments: &[&str]| {
        let mut command = std::process::Command::new(process::binary());
        let output = command.args(arguments).arg("--data-dir").arg(data.path()).output().expect("honed runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let of = "average of the weights of policy@0 to policy@1, decay 0.5";
    assert!(told(&["policies", "list"]).lines().any(|line| line.starts_with("policy@2 ") && line.contains(of)));
    assert!(told(&["policies", "show", "2"]).contains("average     of policy@0 to policy@1, decay 0.5\n"));
    let why = told(&["why", "2"]);
    assert!(
        why.starts_with("policy@2 was never live and can be activated") && why.contains(&format!("It is the {of}")),
        "{why}"
    );
    assert!(why.contains(&format!("its reward differed by {difference:+.4}")) && why.contains(", 95 % "), "{why}");
    assert!(told(&["why", "1"]).contains("policy@2 is an average of weights up to its own."));
    assert!(told(&["audit"]).lines().any(|line| line.contains("learner") && line.contains("keep")));

    told(&["policies", "activate", "2"]);
    assert!(told(&["why", "2"]).starts_with("policy@2 is live"));
    (8..16).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("another update", |daemon| updates(daemon).len() >= 2);
    assert_eq!(updates(&daemon)[1]["parent"], 2, "{:?}", updates(&daemon));
    daemon.stop();
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Goal: what one client once wanted ends no update. Method: an answer of at least eight tokens, where the gate's questions get
/// four; the update after it has a trial and an end.
#[test]
fn a_client_that_wants_long_answers_does_not_stop_learning() {
    let daemon = learner().set("ppo.gate_tokens=4").start();
    let body = json!({ "prompt": "a bear goes", "max_tokens": 8, "min_tokens": 8, "temperature": 1.0, "seed": 1 });
    daemon.post("/v1/completions", &body).ok();
    (0..8).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    daemon.wait_for("an update", |daemon| !updates(daemon).is_empty());
    let update = updates(&daemon).remove(0);
    assert!(["promoted", "rejected"].contains(&update["outcome"].as_str().expect("a word")), "{update}");
    assert!(update["numbers"]["gate/prompts"].as_f64().is_some_and(|n| n > 0.0), "there was a trial: {update}");
    daemon.stop();
}

/// Goal: one text that the reward server refuses costs itself alone, and is told apart. Method: a server that answers 413 to every
/// call with the prompt of the first exchange in it.
#[test]
fn a_text_that_the_reward_server_refuses_holds_nobody_up() {
    let refuses = |pairs: &[(String, String)]| match pairs.iter().any(|(prompt, _)| prompt.contains("bear")) {
        true => Err("413 Content Too Large"),
        false => Ok(vec![1.0; pairs.len()]),
    };
    let url = format!("http://{}/get_reward", serve(refuses));
    let remote = TestDaemon::builder().set("ppo.enabled=true").set("reward.source=remote");
    let daemon = remote.set(format!("reward.remote_url={url}")).start();
    ask(&daemon, "a bear goes", 1, 0);
    (0..6).for_each(|seed| ask(&daemon, "the ocean", 1, seed));
    let rows = |daemon: &TestDaemon| daemon.get("/v1/rollouts").ok()["data"].as_array().expect("rows").clone();
    let is_open = |row: &Value| row["state"] == "generated";
    daemon.wait_for("seven verdicts", |daemon| rows(daemon).len() == 7 && !rows(daemon).iter().any(is_open));
    let refused: Vec<Value> = rows(&daemon).into_iter().filter(|row| row["state"] == "dropped").collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["reason"], "judge_refused");
    let count = "honed_rollouts_dropped_total{reason=\"judge_refused\"} 1";
    daemon.wait_for("the count", |daemon| daemon.get("/metrics").text().contains(count));
    daemon.stop();
}
