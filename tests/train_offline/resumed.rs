//! Runs that were interrupted, and go on.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use super::{Bench, demonstrations, names, rankings, text};

impl Bench {
    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn is_there(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    fn started(&self, arguments: &str) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Kills a run when it has said a line that begins so.
fn kill_after(mut run: Child, beginning: &str) {
    let lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with(beginning)), "it never said {beginning:?}");
    run.kill().unwrap();
    run.wait().unwrap();
}

/// Goal: a killed run goes on to the same bytes, and nobody begins anew over it unasked. Method: a run to its end, and one that is
/// killed after its second epoch; what the second command says to the state that it finds: another command's, and a damaged one.
#[test]
fn a_killed_fine_tuning_comes_to_the_same_bytes() {
    let bench = Bench::new();
    bench.write("data.jsonl", &demonstrations(60));
    bench.write("text.jsonl", &demonstrations(9));
    let how = "sft --model sft.gguf --data data.jsonl --mix text.jsonl --mix-share 0.25 --learning-rate 3e-3 --batch 4 --epochs 8 \
               --keep-epochs";
    bench.done(&format!("{how} --out whole.gguf"));
    kill_after(bench.started(&format!("{how} --out out.gguf --state-every-s 0")), "epoch 2 ");
    assert!(bench.is_there("out.resume") && !bench.is_there("out.gguf"), "{:?}", names(bench.0.path()));
    let unasked = bench.refused(&format!("{how} --out out.gguf"));
    assert!(unasked.contains("out.resume holds an interrupted run: --resume goes on with it"), "{unasked}");
    let other = bench.refused(&format!("{how} --out out.gguf --resume --seed 1"));
    assert!(other.contains("out.resume: it is of another run"), "{other}");
    let state = bench.bytes("out.resume");
    let damaged = |bytes: &[u8]| {
        std::fs::write(bench.path("out.resume"), bytes).unwrap();
        bench.refused(&format!("{how} --out out.gguf --resume"))
    };
    let mut flipped = state.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(damaged(&flipped).contains("out.resume: it is damaged"), "{}", damaged(&flipped));
    assert!(damaged(&state[..middle]).contains("out.resume"), "{}", damaged(&state[..middle]));
    assert!(damaged(b"honed").contains("no training state"), "{}", damaged(b"honed"));
    std::fs::write(bench.path("out.resume"), &state).unwrap();
    let output = bench.run(&format!("{how} --out out.gguf --resume"));
    let (said, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && log.contains("going on after step"), "{said}\n{log}");
    assert!(!said.contains("epoch 1 ") && said.contains("epoch 8 "), "{said}");
    assert_eq!(bench.bytes("out.gguf"), bench.bytes("whole.gguf"));
    for epoch in 1..=8 {
        assert_eq!(bench.bytes(&format!("out.epoch-{epoch}.gguf")), bench.bytes(&format!("whole.epoch-{epoch}.gguf")));
    }
    assert!(!bench.is_there("out.resume"), "it has ended");
    std::fs::copy(bench.path("data.jsonl"), bench.path("data.resume")).unwrap();
    let own =
        bench.refused(&how.replace("data.jsonl", "data.resume").replace("sft --model", "sft --out data.gguf --model"));
    assert!(own.contains("data.resume: it is the file of --data"), "{own}");
    assert!(bench.refused(&format!("{how} --out x.resume")).contains("it is --out itself"));
    let output = bench.run(&format!("{how} --out new.gguf --resume"));
    assert!(output.status.success() && text(&output.stderr).contains("the run begins at its start"), "{output:?}");
}

/// Goal: what a judge has said of the epochs of before counts on. Method: as above, with a judge and an adapter.
#[test]
fn a_killed_run_remembers_which_epoch_was_best() {
    let bench = Bench::new();
    bench.write("rankings.jsonl", &rankings(80));
    bench.write("data.jsonl", &demonstrations(60));
    bench.done(
        "reward --model sft.gguf --data rankings.jsonl --out rm.gguf --learning-rate 3e-3 --reference-samples 16 \
         --reference-tokens 8",
    );
    let how = "sft --model sft.gguf --data data.jsonl --validation-percent 30 --learning-rate 2e-2 --batch 8 --epochs 5 \
               --lora-rank 2 --reward-model rm.gguf --reward-prompts 8 --reward-tokens 8";
    let whole = bench.done(&format!("{how} --out whole.gguf"));
    // No state is due by the clock: an epoch that leaves a file leaves one all the same.
    kill_after(bench.started(&format!("{how} --out out.gguf")), "epoch 3 ");
    let said = bench.done(&format!("{how} --out out.gguf --resume"));
    assert_eq!(bench.bytes("out.gguf"), bench.bytes("whole.gguf"));
    let choice = |said: &str| said.lines().find(|line| line.contains("is the result")).map(str::to_owned);
    assert!(choice(&said).is_some() && choice(&said) == choice(&whole), "{said}\n{whole}");
    let left = names(bench.0.path()).into_iter().filter(|name| name.starts_with("out.")).collect::<Vec<_>>();
    assert_eq!(left, ["out.gguf"]);
}

/// Goal: the same for a reward model, which is whole only at its end. Method: Ctrl-C within the run.
#[test]
fn an_interrupted_reward_model_comes_to_the_same_bytes() {
    let bench = Bench::new();
    bench.write("data.jsonl", &rankings(60));
    let how = "reward --model sft.gguf --data data.jsonl --heads 2 --learning-rate 1e-3 --batch 4 --epochs 12 \
               --reference-samples 16 --reference-tokens 8";
    bench.done(&format!("{how} --out whole.gguf"));
    let run = bench.started(&format!("{how} --out out.gguf --state-every-s 0"));
    let began = Instant::now();
    while !bench.is_there("out.resume") {
        assert!(began.elapsed() < Duration::from_secs(60), "no state was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: kill has no memory effects here; the child is ours and not yet reaped, so its number is its own.
    assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(run.id()).unwrap(), libc::SIGINT) }, 0);
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--resume goes on from out.resume"), "{said}");
    bench.done(&format!("{how} --out out.gguf --resume"));
    assert_eq!(bench.bytes("out.gguf"), bench.bytes("whole.gguf"));
    assert!(!bench.is_there("out.resume"));
}
