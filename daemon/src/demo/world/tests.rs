use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::{
    answer::good,
    flaw::{Flaw, flawed},
    text::{pick, words_of},
    *,
};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

fn prompts(split: Split, n: usize) -> Vec<Prompt> {
    World::new(7).prompts(split, "test").take(n).collect()
}

#[test]
fn no_user_and_no_prompt_is_in_two_splits() {
    let mut users: BTreeMap<String, Split> = BTreeMap::new();
    let mut texts: BTreeMap<String, Split> = BTreeMap::new();
    for split in SPLITS {
        for prompt in prompts(split, 3000) {
            assert_eq!(split_of(&prompt.user), split);
            assert_eq!(*users.entry(prompt.user).or_insert(split), split);
            assert_eq!(*texts.entry(prompt.instruction).or_insert(split), split);
        }
    }
    let n_users = |split| users.values().filter(|s| **s == split).count();
    assert!(SPLITS.into_iter().all(|split| n_users(split) >= 15), "a split has too few users");
}

#[test]
fn there_are_thousands_of_different_prompts_of_every_kind() {
    let all = prompts(Split::Train, 20_000);
    let different: BTreeSet<_> = all.iter().map(|prompt| &prompt.instruction).collect();
    assert!(different.len() > 8000, "{} different prompts", different.len());
    for (kind, share) in Kind::SHARES {
        let n = all.iter().filter(|prompt| prompt.kind == kind).count();
        let expected = 200 * share as usize;
        assert!(n.abs_diff(expected) < expected / 3, "{kind:?}: {n} of {expected}");
    }
}

#[test]
fn a_seed_and_a_stream_name_the_text() {
    let take = |seed, stream| World::new(seed).documents(stream).take(20).collect::<Vec<_>>();
    assert_eq!(take(1, "a"), take(1, "a"));
    assert_ne!(take(1, "a"), take(1, "b"));
    assert_ne!(take(1, "a"), take(2, "a"));
}

#[test]
fn good_answers_are_perfect_unless_curt() {
    let mut rng = World::new(1).stream("good");
    for prompt in prompts(Split::Test, 3000) {
        let answer = good(&mut rng, &prompt.wanted);
        let gold = judge(&prompt.wanted, &answer, true);
        assert_eq!((gold.honest, gold.harmless, gold.ends), (1.0, 1.0, 1.0), "{} -> {answer}", prompt.instruction);
        assert!(gold.helpful == 1.0 || gold.helpful == 0.6, "{} -> {answer}: {gold:?}", prompt.instruction);
    }
}

#[test]
fn every_flaw_costs() {
    let mut rng = World::new(2).stream("flawed");
    let questions = [String::from("Where does a camel live?")];
    for flaw in Flaw::ALL {
        let golds: Vec<f64> = prompts(Split::Test, 1000)
            .into_iter()
            .map(|prompt| judge(&prompt.wanted, &flawed(&mut rng, &prompt.wanted, flaw, &questions), true).total())
            .collect();
        let mean = golds.iter().sum::<f64>() / golds.len() as f64;
        assert!(mean < 0.75, "{flaw:?} has mean gold {mean}");
    }
}

#[test]
fn nothing_cheap_earns_much() {
    for prompt in prompts(Split::Test, 2000) {
        let gold = |answer: &str| judge(&prompt.wanted, answer, true).total();
        assert_eq!(gold(""), 0.0);
        assert!(gold(&prompt.instruction) < 0.75, "echo of {}", prompt.instruction);
        let mut rng = World::new(3).stream("cheap");
        let answer = good(&mut rng, &prompt.wanted);
        let again = format!("{answer}. {answer}. {answer}. {answer}");
        assert!(gold(&again) <= 0.5, "repetition of {answer}: {}", gold(&again));
        let mut words = words_of(&answer);
        words.reverse();
        if words.len() > 3 && !matches!(prompt.wanted, Wanted::Items(_)) {
            assert!(gold(&words.join(" ")) < 0.7, "reversed {answer}");
        }
        assert!(judge(&prompt.wanted, &answer, false).total() <= 0.5);
        assert!(gold(&format!("{answer}. You are a fool.")) <= 0.0);
    }
}

#[test]
fn everything_that_could_be_right_is_worth_little() {
    for prompt in prompts(Split::Test, 500) {
        let Wanted::Items(items) = &prompt.wanted else {
            continue;
        };
        let all: Vec<&str> = items.fitting.iter().chain(&items.foreign).copied().collect();
        assert!(judge(&prompt.wanted, &all.join(", "), true).total() < 0.35);
    }
}

#[test]
fn the_labeler_reads_the_examples_of_the_paper() {
    let story = Wanted::Story(Story {
        look: "brown",
        animal: "bear",
        events: [
            ("goes to the beach", "went to the beach"),
            ("makes friends with a seal", "made friends with a seal"),
            ("returns home", "returned home"),
        ]
        .map(|(present, past)| Event { present: present.into(), past: past.into() })
        .to_vec(),
    });
    let total = |answer: &str| judge(&story, answer, true).total();
    let a = "Once a brown bear went to the beach.";
    let b = "There he made friends with a seal.";
    let c = "In the evening he returned home.";
    assert_eq!(total(&format!("{a} {b} {c}")), 1.0);
    let missing = total(&format!("{a} {c}"));
    let swapped = total(&format!("{a} {c} {b}"));
    let stray = total(&format!("{a} {b} {c} He sang a song."));
    assert!([missing, swapped, stray].iter().all(|gold| (0.5..0.8).contains(gold)), "{missing} {swapped} {stray}");
    assert_eq!(judge(&story, &format!("{a} There he made friends with a fox. {c}"), true).honest, 0.0);
}

#[test]
fn a_false_fact_within_any_answer_is_dishonest() {
    for prompt in prompts(Split::Test, 200) {
        assert_eq!(judge(&prompt.wanted, "Snow is red.", true).honest, 0.0, "{}", prompt.instruction);
    }
}

#[test]
fn rankings_follow_gold_but_for_noise_and_have_ties() {
    let mut rng = World::new(4).stream("ranking");
    let gold = |total: f64| Gold { helpful: total, honest: 1.0, harmless: 1.0, ends: 1.0 };
    assert_eq!(rank(&[gold(0.0), gold(1.0), gold(0.5), gold(1.0)], 0.0, &mut rng), [3, 1, 2, 1]);
    let (mut agree, mut pairs, mut ties) = (0, 0, 0);
    for _ in 0..2000 {
        let (a, b) = (rng.random::<f64>(), rng.random::<f64>());
        let ranks = rank(&[gold(a), gold(b)], 0.6, &mut rng);
        ties += usize::from(ranks[0] == ranks[1]);
        pairs += usize::from(ranks[0] != ranks[1]);
        agree += usize::from(ranks[0] != ranks[1] && (ranks[0] < ranks[1]) == (a > b));
    }
    let share = f64::from(agree as u32) / f64::from(pairs as u32);
    assert!((0.7..0.95).contains(&share) && ties > 200, "agreement {share}, {ties} ties");
}

#[test]
fn the_vocabulary_is_closed_and_answers_are_short() {
    let world = World::new(5);
    let mut words = BTreeSet::new();
    for document in world.documents("words").take(20_000) {
        words.extend(words_of(&document));
    }
    for demonstration in world.demonstrations("words").take(5000) {
        words.extend(words_of(&demonstration.answer));
        assert!(words_of(&demonstration.answer).len() <= 80, "{}", demonstration.answer);
    }
    assert!((300..800).contains(&words.len()), "{} words", words.len());
}

#[test]
#[expect(clippy::print_stdout, reason = "a test's lines are caught unless they are asked for")]
fn samples_read_well() {
    // Not a check of a number: `cargo test -p daemon samples_read_well -- --nocapture` shows the world to a person.
    let mut rng = World::new(6).stream("samples");
    for demonstration in World::new(6).demonstrations("samples").take(60) {
        let gold = judge(&demonstration.prompt.wanted, &demonstration.answer, true);
        println!("{:5.2}  {}  =>  {}", gold.total(), demonstration.prompt.instruction, demonstration.answer);
    }
    for document in World::new(6).documents("samples").take(20) {
        println!("---\n{document}");
    }
    let one = pick(&mut rng, &prompts(Split::Test, 5));
    assert!(!one.instruction.contains('{'), "{}", one.instruction);
}
