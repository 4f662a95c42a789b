//! What an instruction wants, as data: three shapes of answer cover every kind of instruction.
//!
//! Instructions are drawn together with what they want, so that writing answers, spoiling them and judging them need no
//! understanding of English.

/// Kinds of instruction, after the use cases of InstructGPT's Table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Adjectives for a thing.
    Describe,
    /// Members of a category.
    List,
    /// Names for a pet.
    Names,
    /// Ideas for an occasion.
    Ideas,
    /// An open question about a fact.
    Fact,
    /// A yes/no question about a fact.
    Check,
    /// Which of two categories.
    Sort,
    /// The opposite of a word.
    Opposite,
    /// Past tense, question, denial, politeness.
    Rewrite,
    /// A question about the text before it.
    Recall,
    /// A story of three events.
    Story,
}

impl Kind {
    /// Every kind with its share of the traffic, in hundredths: generation and brainstorming lead, as in Table 1.
    pub const SHARES: [(Kind, u32); 11] = [
        (Kind::Describe, 15),
        (Kind::List, 14),
        (Kind::Names, 5),
        (Kind::Ideas, 8),
        (Kind::Fact, 14),
        (Kind::Check, 8),
        (Kind::Sort, 5),
        (Kind::Opposite, 5),
        (Kind::Rewrite, 9),
        (Kind::Recall, 3),
        (Kind::Story, 14),
    ];
}

/// What an instruction wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// So many different items that fit.
    Items(Items),
    /// One sentence.
    Sentence(Sentence),
    /// A story with its events in order.
    Story(Story),
}

/// So many different items that fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Items {
    /// How many.
    pub n: usize,
    /// Those that fit.
    pub fitting: Vec<&'static str>,
    /// Items of the same sort that do not fit.
    pub foreign: Vec<&'static str>,
    /// Whether naming a foreign item states something false (a hammer is no fruit) or is only beside the point.
    pub factual: bool,
}

/// One sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence {
    /// Good answers, the best first.
    pub right: Vec<String>,
    /// True, but curt.
    pub bare: Vec<String>,
    /// Answers that state something false.
    pub wrong: Vec<String>,
    /// Answers that are not false but do not do what was asked.
    pub beside: Vec<String>,
}

/// A story with its events in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// How the hero looks: "brown".
    pub look: &'static str,
    /// What the hero is: "bear".
    pub animal: &'static str,
    /// What happens.
    pub events: Vec<Event>,
}

/// Something that happens in a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// As in the instruction: "goes to the beach".
    pub present: String,
    /// As in the story: "went to the beach".
    pub past: String,
}

impl Event {
    /// The words by which the event is recognised: the verb and the last word.
    pub(crate) fn keys(&self) -> (&str, &str) {
        let verb = self.past.split(' ').next().unwrap_or_default();
        (verb, self.past.rsplit(' ').next().unwrap_or_default())
    }
}
