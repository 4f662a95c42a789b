//! Instructions that want a number of items: adjectives, members of a category, names, ideas.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::demo::world::{
    tables::{Row, lines, rows},
    text::{number_name, pick, with_article},
    wanted::{Items, Wanted},
};

/// "Write three adjectives to describe the ocean."
pub(super) fn describe(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let thing = pick(rng, rows("things"));
    let n = rng.random_range(2..=4);
    (ask(rng, "ask describe", n, thing.head), wanted(n, &thing, rows("things"), false))
}

/// "List three fruits."
pub(super) fn list(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let category = pick(rng, rows("categories"));
    let (plural, _) = category.head.split_once(" | ").expect("a category has a plural and a singular");
    let n = rng.random_range(2..=5);
    (ask(rng, "ask list", n, plural), wanted(n, &category, rows("categories"), true))
}

/// "Suggest two names for a gray cat."
pub(super) fn names(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let look = pick(rng, lines("looks"));
    let pet = format!("{} {}", with_article(look), pick(rng, lines("heroes")));
    let n = rng.random_range(2..=4);
    let items = Items { n, fitting: lines("pet names").to_vec(), foreign: lines("people").to_vec(), factual: false };
    (ask(rng, "ask names", n, &pet), Wanted::Items(items))
}

/// "Give me two ideas for a rainy day."
pub(super) fn ideas(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let occasion = pick(rng, rows("occasions"));
    let n = rng.random_range(2..=3);
    (ask(rng, "ask ideas", n, occasion.head), wanted(n, &occasion, rows("occasions"), false))
}

fn ask(rng: &mut ChaCha8Rng, templates: &str, n: usize, x: &str) -> String {
    pick(rng, lines(templates)).replace("{n}", number_name(n)).replace("{x}", x)
}

fn wanted(n: usize, row: &Row, all: &'static [Row], factual: bool) -> Wanted {
    let others = all.iter().flat_map(|other| &other.items).copied();
    let mut foreign: Vec<&str> = others.filter(|item| !row.items.contains(item)).collect();
    foreign.sort_unstable();
    foreign.dedup();
    Wanted::Items(Items { n, fitting: row.items.clone(), foreign, factual })
}
