//! Instructions that want a story: a hero and three events in order.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::demo::world::{
    tables::{Row, lines, rows},
    text::{pick, with_article},
    wanted::{Event, Story, Wanted},
};

/// "Write a short story where a brown bear goes to the beach, makes friends with a seal, and then returns home."
pub(super) fn story(rng: &mut ChaCha8Rng) -> (String, Wanted) {
    let story = draw_story(rng);
    let hero = format!("{} {}", with_article(story.look), story.animal);
    let instruction = pick(rng, lines("ask story"))
        .replace("{h}", &hero)
        .replace("{1}", &story.events[0].present)
        .replace("{2}", &story.events[1].present)
        .replace("{3}", &story.events[2].present);
    (instruction, Wanted::Story(story))
}

/// A story to be told: setting out, meeting or doing something, and how it closes.
pub(crate) fn draw_story(rng: &mut ChaCha8Rng) -> Story {
    let animal = pick(rng, lines("heroes"));
    let place = pick(rng, lines("places"));
    let goes = Event { present: format!("goes to {place}"), past: format!("went to {place}") };
    let middle = if rng.random_bool(0.4) { meeting(rng, animal) } else { deed(rng, "actions") };
    let events = vec![goes, middle, deed(rng, "endings")];
    Story { look: pick(rng, lines("looks")), animal, events }
}

/// Making friends with another animal than oneself.
pub(crate) fn meeting(rng: &mut ChaCha8Rng, hero: &str) -> Event {
    let others: Vec<&str> = lines("heroes").iter().copied().filter(|animal| *animal != hero).collect();
    let friend = with_article(pick(rng, &others));
    Event { present: format!("makes friends with {friend}"), past: format!("made friends with {friend}") }
}

/// Something done, from a table of verbs and objects.
pub(crate) fn deed(rng: &mut ChaCha8Rng, table: &str) -> Event {
    let Row { head, items } = pick(rng, rows(table));
    let forms: Vec<&str> = head.split('/').collect();
    let object = pick(rng, &items);
    Event { present: format!("{} {object}", forms[1]), past: format!("{} {object}", forms[2]) }
}
