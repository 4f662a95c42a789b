//! What follows from the arguments alone.

use super::*;

fn args(call: &str) -> Args {
    let known = <Args as clap::Args>::augment_args(clap::Command::new("sft"));
    <Args as clap::FromArgMatches>::from_arg_matches(&known.get_matches_from(call.split(' '))).expect("well-formed")
}

/// Goal: the plan knows what learns and who judges. Method: the built-in model, for want of another as its own judge.
#[test]
fn a_plan_counts_the_adapter_and_the_judge() {
    let base = Base::open(None).unwrap();
    let data = Data { train: vec![Sequence::text(vec![TokenId(1); 9])], ..Data::default() };
    let plan = |more: String| plan(&args(&format!("sft --data d --out o{more}")), &base, &data).unwrap();
    let (whole, adapter) = (plan(String::new()), plan(" --lora-rank 1".to_owned()));
    assert!(adapter.items[0].0.contains("the model, policy's adapter"), "{adapter}");
    assert!(adapter.items[2].1 < whole.items[2].1 / 10, "moments of the adapter alone: {adapter}");
    let judged = plan(format!(" --reward-model {}", base.path.display()));
    assert!(judged.needed() >= whole.needed() + 3 * weight_bytes(&base.shape), "judge, its file, engine: {judged}");
}

#[test]
fn an_adapter_learns_at_a_rate_of_its_own_unless_told() {
    let rate = |call: &str| args(call).options().learning_rate;
    assert_eq!(rate("sft --data d --out o"), 1e-5);
    assert_eq!(rate("sft --data d --out o --lora-rank 4"), 1e-4);
    assert_eq!(rate("sft --data d --out o --lora-rank 4 --learning-rate 2e-5"), 2e-5);
}
