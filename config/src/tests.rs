//! Defaults, layers, ranges, suggestions and the printed form.

use std::io::Write;

use super::*;
use crate::rule::Rule;

fn load(env: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
    Config::load(Sources {
        file: None,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
    })
}

fn load_file(text: &str) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room on the disk");
    Config::load(Sources { file: Some(file.path().to_owned()), env: Vec::new(), sets: Vec::new() })
}

fn check_refused(result: Result<Config, ConfigError>, parts: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not mention {part:?}");
    }
}

/// Goal: a range is stated once for people and once for the machine, and the two never part.
/// Method: rebuild every comment of the file from the table of knobs and compare.
#[test]
fn comments_of_the_file_say_what_the_checks_enforce() {
    let mut documented = documented_knobs().into_iter();
    for section in SECTIONS {
        for knob in section.knobs {
            let key = format!("{}.{}", section.path, knob.name);
            let comment = format!("{} [{}]", knob.doc.trim(), knob.rule);
            assert_eq!(documented.next(), Some((key, comment)));
        }
    }
    assert_eq!(documented.next(), None);
}

/// Every key of the file in its order, with the comment above it; keys without a comment between them share one.
fn documented_knobs() -> Vec<(String, String)> {
    let mut knobs = Vec::new();
    let (mut section, mut comment, mut is_new) = ("", String::new(), true);
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment = if is_new { text.to_owned() } else { format!("{comment} {text}") };
            is_new = false;
            continue;
        }
        is_new = true;
        if let Some(path) = line.strip_prefix('[') {
            section = path.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(" = ") {
            knobs.push((format!("{section}.{name}"), comment.clone()));
        }
    }
    knobs
}

#[test]
fn defaults_are_those_of_the_file() {
    let config = Config::default();
    assert_eq!((config.ppo.rollouts_per_update, config.ppo.log.commit_ms), (128, 50));
    assert_eq!(config.ppo.policy_learning_rate, 2e-6);
    assert_eq!(config.daemon.listen, "127.0.0.1:8080");
}

#[test]
fn later_layers_win_and_name_themselves() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(file, "[ppo]\nepochs = 2\ngamma = 1\n[ppo.log]\nqueue = 7\n[policy]\nparallel = 3").expect("room");
    let config = Config::load(Sources {
        file: Some(file.path().to_owned()),
        env: [("HONED__PPO__LOG__QUEUE", "8"), ("HONED__POLICY__PARALLEL", "4"), ("HOME", "/"), ("HONED_GOLDEN", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        sets: vec!["policy.parallel=5".to_owned(), "policy.parallel = 6".to_owned()],
    })
    .expect("valid");
    assert_eq!((config.ppo.epochs, config.ppo.log.queue, config.policy.parallel), (2, 8, 6));
    assert_eq!(config.origins.of("ppo.epochs"), Origin::File(file.path().to_owned()));
    assert_eq!(config.origins.of("ppo.log.queue"), Origin::Environment("HONED__PPO__LOG__QUEUE".to_owned()));
    assert_eq!(config.origins.of("policy.parallel"), Origin::Set);
    assert_eq!(config.origins.of("ppo.lambda"), Origin::Default);
}

/// Goal: who asks for adapters gets rates that suit them, and what somebody names stays. Method: a rank alone, with other knobs, and
/// from a file; the printed form says whose defaults they are, and loads to the same.
#[test]
fn adapters_have_defaults_of_their_own() {
    let sizes = |config: &Config| (config.ppo.rollouts_per_update, config.ppo.minibatch);
    let rates = |config: &Config| (config.ppo.policy_learning_rate, config.ppo.value_learning_rate);
    let head = |config: &Config| config.ppo.value_head_learning_rate;
    let whole = load(&[], &["ppo.lora_rank=0"]).expect("valid");
    assert_eq!((sizes(&whole), rates(&whole), head(&whole)), ((128, 32), (2e-6, 9e-6), 0.0));
    let lora = load(&[], &["ppo.lora_rank=16"]).expect("valid");
    assert_eq!((sizes(&lora), rates(&lora), head(&lora)), ((64, 16), (2e-5, 5e-5), 1e-4));
    assert_eq!(lora.origins.of("ppo.value_learning_rate"), Origin::Lora);
    assert_eq!(lora.ppo.epochs, whole.ppo.epochs);
    let sets = ["ppo.lora_rank=16", "ppo.value_learning_rate=9e-6"];
    let named = load(&[("HONED__PPO__MINIBATCH", "32")], &sets).expect("valid");
    assert_eq!((sizes(&named), rates(&named)), ((64, 32), (2e-5, 9e-6)));
    assert_eq!(named.origins.of("ppo.value_learning_rate"), Origin::Set);
    let printed = load_file("[ppo]\nlora_rank = 4").expect("valid").print();
    assert!(printed.contains("\n# policy_learning_rate = 2e-5 # default with ppo.lora_rank\n"), "{printed}");
    assert_eq!(rates(&load_file(&printed).expect("what we print we can read")), (2e-5, 5e-5));
    let without = printed.replace("lora_rank = 4 ", "lora_rank = 0 ");
    assert_eq!(rates(&load_file(&without).expect("valid")), (2e-6, 9e-6), "what followed from the rank goes with it");
}

/// The knobs' own comments name what adapters have instead.
#[test]
fn defaults_of_adapters_are_told_beside_the_others() {
    let table: toml::Table = LORA_DEFAULTS.parse().expect("TOML");
    let own = table["ppo"].as_table().expect("a table");
    for (name, value) in own {
        let knob = Ppo::SECTION.knobs.iter().find(|knob| knob.name == name).expect("a knob");
        let value = value.as_float().map_or_else(|| value.to_string(), |x| format!("{x:?}"));
        assert!(knob.doc.contains(&format!("By default {value} with lora_rank")), "{name}: {}", knob.doc);
    }
    let told = Ppo::SECTION.knobs.iter().filter(|knob| knob.doc.contains("with lora_rank")).count();
    assert_eq!(told, own.len());
}

#[test]
fn text_of_a_command_line_becomes_the_type_of_the_key() {
    let sets = [
        "policy.served_name=7",
        "policy.model=C:\\models\\a b.gguf",
        "daemon.data_dir=\"a#b\"",
        "reward.source='feedback'",
        "daemon.listen=localhost:0",
        "ppo.enabled=false",
        "ppo.kl_horizon=1e4",
        "ppo.gamma=1",
        "ppo.kl_coef=5e-2",
        "ppo.seed=9223372036854775807",
        "ppo.log.commit_ms=20",
    ];
    let config = load(&[], &sets).expect("all valid");
    assert_eq!(config.policy.served_name, "7");
    assert_eq!(config.policy.model, "C:\\models\\a b.gguf");
    assert_eq!((config.daemon.data_dir.as_str(), config.reward.source.as_str()), ("a#b", "feedback"));
    assert_eq!((config.ppo.enabled, config.ppo.kl_horizon, config.ppo.gamma), (false, 10_000, 1.0));
    assert_eq!((config.ppo.kl_coef, config.ppo.seed, config.ppo.log.commit_ms), (0.05, i64::MAX as u64, 20));
}

#[test]
fn every_bound_is_allowed_and_one_step_beyond_is_not() {
    for section in SECTIONS {
        for knob in section.knobs {
            let key = format!("{}.{}", section.path, knob.name);
            let admits = |value: toml::Value| knob.rule.admit(value).is_some();
            match knob.rule {
                Rule::Whole(low, high) => {
                    assert!(admits(low.into()) && admits(high.into()), "{key}");
                    assert!(!admits((low - 1).into()) && !admits((high as f64 * 1.001 + 1.0).floor().into()), "{key}");
                    assert!(!admits((low as f64 + 0.5).into()) && !admits("1".into()) && !admits(true.into()), "{key}");
                }
                Rule::Real(low, high) => {
                    assert!(admits(low.into()) && admits(high.into()), "{key}");
                    assert!(!admits(low.next_down().into()) && !admits(high.next_up().into()), "{key}");
                    assert!(!admits(f64::NAN.into()) && !admits(f64::INFINITY.into()) && !admits("1".into()), "{key}");
                }
                Rule::Switch => assert!(admits(true.into()) && !admits(1.into()) && !admits("true".into()), "{key}"),
                Rule::OneOf(words) => {
                    assert!(words.iter().all(|word| admits((*word).into())), "{key}");
                    assert!(!admits("other".into()) && !admits("".into()) && !admits(1.into()), "{key}");
                }
                Rule::Text(..) => assert!(!admits(1.into()), "{key}"),
            }
        }
    }
}

#[test]
fn a_wrong_value_is_refused_with_key_rule_value_and_origin() {
    check_refused(load(&[], &["policy.parallel=0"]), &["`policy.parallel`", "1..=256", "got 0", "--set"]);
    check_refused(
        load(&[("HONED__PPO__GAMMA", "nan")], &[]),
        &["`ppo.gamma`", "0.0..=1.0", "nan", "HONED__PPO__GAMMA"],
    );
    check_refused(load_file("[reward]\nsource = \"oracle\""), &["`reward.source`", "\"mix\"", "\"oracle\"", "file "]);
    check_refused(load_file("[ppo]\nenabled = \"yes\""), &["`ppo.enabled`", "true or false", "\"yes\""]);
    check_refused(load_file("ppo = 3"), &["`ppo`", "[ppo]", "got 3"]);
    check_refused(load(&[], &["ppo.seed=18446744073709551615"]), &["`ppo.seed`", "9223372036854775807"]);
    check_refused(load(&[], &["ppo.device=gpu"]), &["`ppo.device`", "cuda:N", "\"gpu\""]);
    check_refused(load(&[], &["daemon.listen=localhost"]), &["`daemon.listen`", "host:port"]);
    check_refused(load(&[], &["daemon.listen=localhost:70000"]), &["`daemon.listen`"]);
    check_refused(load(&[], &["reward.remote_url=https://host"]), &["`reward.remote_url`", "http://"]);
    check_refused(load(&[], &["policy.served_name=policy@1"]), &["`policy.served_name`"]);
    check_refused(load(&[], &["policy.parallel"]), &["--set policy.parallel", "section.key=value"]);
    check_refused(load_file("[ppo"), &["not valid TOML"]);
    let missing = Sources { file: Some("no/such/file".into()), env: Vec::new(), sets: Vec::new() };
    check_refused(Config::load(missing), &["no/such/file"]);
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    check_refused(load(&[], &["ppo.kl_coeff=1"]), &["`ppo.kl_coeff`", "--set", "did you mean `ppo.kl_coef`?"]);
    check_refused(load(&[], &["daemon.kl_coef=1"]), &["did you mean `ppo.kl_coef`?"]);
    check_refused(load(&[], &["ppo.comit_ms=1"]), &["did you mean `ppo.log.commit_ms`?"]);
    check_refused(load(&[], &["listen=x"]), &["did you mean `daemon.listen`?"]);
    check_refused(load(&[("HONED__DAEMON__LISTE", "x")], &[]), &["HONED__DAEMON__LISTE", "`daemon.listen`?"]);
    check_refused(load_file("[policy]\nthread = 1"), &["`policy.thread`", "`policy.threads`?"]);
    check_refused(load_file("[polcy]\nthreads = 1"), &["unknown section `polcy`", "`policy`?"]);
    check_refused(load_file("[ppo.logs]\nqueue = 1"), &["unknown section `ppo.logs`", "`ppo.log`?"]);
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let minibatch = load(&[("HONED__PPO__MINIBATCH", "48")], &[]);
    check_refused(
        minibatch,
        &["`ppo.minibatch`", "divisor", "`ppo.rollouts_per_update` = 128 (from default)", "got 48"],
    );
    check_refused(load(&[], &["ppo.is_geo_low=2"]), &["`ppo.is_geo_low`", "at most `ppo.is_geo_high` = 1.25", "2.0"]);
    check_refused(load(&[], &["ppo.is_mask_low=6"]), &["`ppo.is_mask_low`", "at most `ppo.is_mask_high` = 5.0", "6.0"]);
    check_refused(load(&[], &["ppo.watch_latency_factor=1.1"]), &["`ppo.watch_latency_factor`", "0, or at least 1.5"]);
    check_refused(load(&[], &["ppo.dual_clip=1.1"]), &["`ppo.dual_clip`", "1 + `ppo.clip_high` = 0.2", "1.1"]);
    check_refused(load(&[], &["ppo.kl_in=loss"]), &["`ppo.kl_estimator`", "k3", "`ppo.kl_in` = \"loss\"", "k1"]);
    assert!(load(&[], &["ppo.kl_in=loss", "ppo.kl_estimator=k3"]).is_ok());
    for word in ["geometric", "sequence_truncate", "bypass"] {
        let sets = ["ppo.proximal=log_linear", &format!("ppo.importance={word}")];
        let modes = "\"token_truncate\", \"token_mask\" or \"off\"";
        check_refused(load(&[], &sets), &["`ppo.importance`", modes, "`ppo.proximal` = \"log_linear\"", word]);
    }
    for word in ["token_truncate", "token_mask", "off"] {
        assert!(load(&[], &["ppo.proximal=log_linear", &format!("ppo.importance={word}")]).is_ok(), "{word}");
    }
    check_refused(load(&[], &["ppo.proximal=log_linear"]), &["`ppo.importance`", "geometric", "default"]);
    for key in ["ppo.missing_eos", "ppo.client_limit"] {
        let set = format!("{key}=bootstrap");
        check_refused(load(&[], &[&set, "ppo.advantage_estimator=rloo"]), &[key, "value model", "rloo"]);
        assert!(load(&[], &[&set]).is_ok());
    }
    check_refused(load(&[], &["ppo.ptx=auto"]), &["`ppo.ptx_file`", "a file of text", "`ppo.ptx` = \"auto\""]);
    assert!(load(&[], &["ppo.ptx=auto", "ppo.ptx_file=a.txt", "ppo.dual_clip=3"]).is_ok());
    for factor in ["0", "1.5"] {
        assert!(load(&[], &[&format!("ppo.watch_latency_factor={factor}")]).is_ok(), "{factor}");
    }
    let on_gpu = load(&[], &["ppo.device=cuda:0", "ppo.activation_checkpointing=true"]);
    check_refused(on_gpu, &["`ppo.activation_checkpointing`", "false", "`ppo.device` = \"cuda:0\""]);
    check_refused(load(&[], &["reward.source=remote"]), &["`reward.remote_url`", "`reward.source` = \"remote\""]);
    check_refused(load(&[], &["reward.source=mix", "reward.mix_remote=1"]), &["`reward.remote_url`", "mix_remote"]);
    let fallback = load(&[], &["reward.source=feedback", "reward.feedback_fallback=remote"]);
    check_refused(fallback, &["`reward.remote_url`", "feedback_fallback"]);
    check_refused(load(&[], &["reward.source=mix", "reward.mix_model=0"]), &["`reward.source`", "mix_model"]);
    let url = "reward.remote_url=http://localhost:9/score";
    check_refused(
        load(&[], &["daemon.import_watch=load"]),
        &["`daemon.import_dir`", "`daemon.import_watch` = \"load\""],
    );
    assert!(load(&[], &["reward.source=remote", url]).is_ok());
    assert!(load(&[], &["reward.feedback_fallback=remote"]).is_ok(), "nobody asks the fallback");
}

#[test]
fn the_printed_form_loads_to_the_same_values() {
    let url = "reward.remote_url=http://localhost:9/a\"b";
    let config =
        load(&[("HONED__PPO__KL_COEF", "1e-7")], &["policy.model=a\\b", url, "ppo.log.queue=9"]).expect("valid");
    let printed = config.print();
    assert!(printed.contains("kl_coef = 1e-7 # environment HONED__PPO__KL_COEF\n"), "{printed}");
    assert!(printed.contains("queue = 9 # --set\n"), "{printed}");
    assert!(printed.contains("parallel = 8 # default\n"), "{printed}");
    let mut again = load_file(&printed).expect("what we print we can read");
    again.origins = config.origins.clone();
    assert_eq!(again, config);
}

#[test]
fn origins_are_scheme_and_host() {
    for good in ["", "https://chat.example", "http://127.0.0.1:3000, https://[::1]"] {
        let config = load(&[], &[&format!("daemon.cors_origins={good}")]).expect("valid");
        assert_eq!(config.daemon.cors_origins, good);
    }
    for bad in ["*", "chat.example", "https://", "https://a.example/path", "https://a.example,", "null"] {
        check_refused(load(&[], &[&format!("daemon.cors_origins={bad}")]), &["daemon.cors_origins", "origins like"]);
    }
}

#[test]
fn keys_of_the_environment_are_read_and_never_shown() {
    let text = "k-one,k-two\n k-three";
    let config = load(&[("HONED_API_KEYS", text), ("HONED_ADMIN_KEYS", "k-root")], &[]).expect("valid");
    assert_eq!(config.keys.api.iter().collect::<Vec<_>>(), ["k-one", "k-two", "k-three"]);
    assert_eq!(config.keys.admin.iter().collect::<Vec<_>>(), ["k-root"]);
    for shown in [config.print(), format!("{config:?}"), format!("{:?}", config.keys)] {
        assert!(!shown.contains("k-"), "{shown}");
    }
    for bad in ["", " , ", "k-\u{e9}", "k-one,k-\u{7f}"] {
        let message = load(&[("HONED_ADMIN_KEYS", bad)], &[]).expect_err("must be refused").to_string();
        assert!(message.contains("HONED_ADMIN_KEYS") && !message.contains("k-"), "{message}");
    }
    // Where a key is taken for a knob, it is not echoed either.
    for (env, sets) in [(vec![("HONED__DAEMON__API_KEYS", "k-one")], vec![]), (vec![], vec!["daemon.api_keys=k-one"])] {
        let message = load(&env, &sets).expect_err("no such knob").to_string();
        assert!(message.contains("api_keys_file") && !message.contains("k-one"), "{message}");
    }
}

#[test]
fn hosts_are_names_without_ports() {
    for good in ["", "*", "chat.example", "honed, honed.lan,10.0.0.7", "[fd00::1]"] {
        assert!(load(&[], &[&format!("daemon.allowed_hosts={good}")]).is_ok(), "{good}");
    }
    for bad in ["chat.example:8080", "http://chat.example", "a,,b", "*.example", "fd00::1", "a b"] {
        check_refused(load(&[], &[&format!("daemon.allowed_hosts={bad}")]), &["daemon.allowed_hosts", "names like"]);
    }
}

#[test]
fn a_collector_is_known_by_its_usual_names() {
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const FULL: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let url = |env: &[(&str, &str)]| load(env, &[]).expect("valid").daemon.traces_url;
    assert_eq!(url(&[]), "");
    assert_eq!(url(&[(BASE, "http://c:4318/")]), "http://c:4318/v1/traces");
    assert_eq!(url(&[(BASE, "http://c:4318"), (FULL, "http://d/x")]), "http://d/x");
    assert_eq!(url(&[(BASE, "https://c"), ("HONED__DAEMON__TRACES_URL", "http://e/t")]), "http://e/t");
    assert_eq!(url(&[(BASE, "https://c"), ("OTEL_SDK_DISABLED", "true")]), "");
    let config = load(&[(FULL, "http://d/x")], &[]).expect("valid");
    assert_eq!(config.origins.of("daemon.traces_url"), Origin::Environment(FULL.to_owned()));
}

/// Goal: a variable of the whole machine stops no command, and whoever serves is told. Method: one that cannot be used, alone and
/// beside names of ours.
#[test]
fn a_collector_that_cannot_be_used_is_a_warning_and_a_wrong_knob_an_error() {
    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318");
    let config = load(&[BASE], &[]).expect("it stops nothing");
    assert_eq!((config.daemon.traces_url.as_str(), config.origins.of("daemon.traces_url")), ("", Origin::Default));
    let told = config.untraced.expect("a warning");
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT is https://c:4318") && told.contains("plain HTTP"), "{told}");
    for set in ["daemon.traces_url=", "daemon.traces_url=http://d/x"] {
        assert_eq!(load(&[BASE], &[set]).expect("valid").untraced, None, "{set}");
    }
    check_refused(load(&[BASE], &["daemon.traces_url=https://d"]), &["`daemon.traces_url`", "http://", "--set"]);
}
