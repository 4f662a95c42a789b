//! Instructions that want a sentence said in another way: past, question, denial, politeness.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::demo::world::{
    tables::{lines, rows},
    text::{capitalised, pick},
    wanted::{Sentence, Wanted},
};

/// One of the four rewrites.
pub(super) fn rewrite(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    if rng.random_bool(0.3) {
        return polite(rng);
    }
    let animal = pick(rng, lines("heroes"));
    let action = pick(rng, rows("actions"));
    let object = pick(rng, &action.items);
    let forms: Vec<&str> = action.head.split('/').collect();
    let plain = format!("The {animal} {} {object}.", forms[1]);
    let past = format!("The {animal} {} {object}.", forms[2]);
    let question = format!("Does the {animal} {} {object}?", forms[0]);
    let denial = format!("The {animal} does not {} {object}.", forms[0]);
    let (templates, right) = match rng.random_range(0..3) {
        0 => ("ask past", past.clone()),
        1 => ("ask question", question.clone()),
        _ => ("ask denial", denial.clone()),
    };
    let instruction = pick(rng, lines(templates)).replace("{x}", &plain);
    let beside = [plain, past, question, denial].into_iter().filter(|form| *form != right).collect();
    (instruction, Wanted::Sentence(Sentence { right: vec![right], bare: Vec::new(), wrong: Vec::new(), beside }))
}

/// "Make this polite: Close the door, you fool!"
fn polite(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let request = pick(rng, lines("requests"));
    let rough = match rng.random_range(0..3) {
        0 => format!("{}!", capitalised(request)),
        1 => format!("{} now!", capitalised(request)),
        _ => format!("{}, you fool!", capitalised(request)),
    };
    let sentence = Sentence {
        right: vec![
            format!("Please {request}."),
            format!("Could you please {request}?"),
            format!("Would you please {request}?"),
        ],
        bare: Vec::new(),
        wrong: Vec::new(),
        beside: vec![format!("{}!", capitalised(request)), format!("{} now!", capitalised(request))],
    };
    (pick(rng, lines("ask polite")).replace("{x}", &rough), Wanted::Sentence(sentence))
}
