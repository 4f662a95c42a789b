//! The thread that compiles grammars: neither a stream nor the runtime ever waits for one.
//!
//! Two waits of a caller are apart: that for the grammars before its own, which is the daemon's business and ends in "busy",
//! and that for its own, which ends in a verdict on the grammar.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};

use super::{Constraint, Lost};
use crate::{
    engine::EngineError,
    grammar::{Grammar, GrammarError},
    version::PolicyVersion,
    vocabulary::Vocabulary,
};

/// Grammars that may wait.
const QUEUE_MAX: usize = 64;
/// Longest that a caller waits for the grammars before its own, and then for its own.
const PATIENCE: Duration = Duration::from_secs(5);
/// Compiled grammars kept: clients send the same one again and again.
const KEPT_MAX: usize = 32;
/// Grammars come from outside, and the compiler recurses.
const STACK_BYTES: usize = 16 << 20;
/// Characters of the compiler's message that a client sees; it quotes the grammar.
const MESSAGE_CHARS_MAX: usize = 400;
/// Budgets of one token, a quarter of the library's own: the engine's thread pays them between two passes.
pub(super) const LEXER_FUEL: u64 = 50_000;
pub(super) const ITEMS_MAX: usize = 12_500;
/// Of the parser at one place; the library's own.
pub(super) const ROW_ITEMS_MAX: usize = 2000;
/// What the library calls the byte before the name of a control token.
const CONTROL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The handle of the compiling thread, which ends with its last handle.
#[derive(Clone)]
pub(in crate::engine) struct Compiler {
    door: Sender<Order>,
    kept: Arc<Kept>,
    patience: Duration,
}

struct Order {
    grammar: Grammar,
    /// Told when its turn comes; whoever has given up does not hear it.
    begun: Sender<()>,
    reply: Sender<Result<Constraint, GrammarError>>,
}

/// The newest compiled grammars, the newest first.
#[derive(Default)]
struct Kept(Mutex<VecDeque<(Grammar, Constraint)>>);

impl Kept {
    fn get(&self, grammar: &Grammar) -> Option<Constraint> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(kept, _)| kept == grammar)?;
        let entry = kept.remove(at)?;
        let constraint = entry.1.clone();
        kept.push_front(entry);
        Some(constraint)
    }

    fn put(&self, grammar: Grammar, constraint: Constraint) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT_MAX - 1);
        kept.push_front((grammar, constraint));
    }
}

impl Compiler {
    /// Starts the thread; the tables of the vocabulary are made when the first grammar comes.
    pub(in crate::engine) fn start(vocabulary: Arc<Vocabulary>) -> Result<Compiler, EngineError> {
        let (door, orders) = bounded(QUEUE_MAX);
        let kept = Arc::new(Kept::default());
        let bench = Bench { vocabulary, factory: None, kept: Arc::clone(&kept) };
        thread::Builder::new()
            .name("engine-grammar".into())
            .stack_size(STACK_BYTES)
            .spawn(move || bench.serve(&orders))
            .map_err(|e| EngineError::Thread(PolicyVersion::SFT, e))?;
        Ok(Compiler { door, kept, patience: PATIENCE })
    }

    /// Compiles a grammar; blocks the caller for at most twice [`PATIENCE`], and hardly for one that is kept.
    pub(in crate::engine) fn compile(&self, grammar: Grammar) -> Result<Constraint, GrammarError> {
        if let Some(constraint) = self.kept.get(&grammar) {
            return Ok(constraint);
        }
        let (begun, turn) = bounded(1);
        let (reply, answer) = bounded(1);
        self.door.try_send(Order { grammar, begun, reply }).map_err(|error| match error {
            TrySendError::Full(_) => GrammarError::Busy,
            TrySendError::Disconnected(_) => GrammarError::Ended,
        })?;
        let late = |late| move |error| if error == RecvTimeoutError::Timeout { late } else { GrammarError::Ended };
        turn.recv_timeout(self.patience).map_err(late(GrammarError::Busy))?;
        answer.recv_timeout(self.patience).map_err(late(GrammarError::TooSlow))?
    }
}

/// What the thread owns.
struct Bench {
    vocabulary: Arc<Vocabulary>,
    factory: Option<ParserFactory>,
    kept: Arc<Kept>,
}

impl Bench {
    fn serve(mut self, orders: &Receiver<Order>) {
        for order in orders {
            // Whoever has given up needs no answer.
            if order.begun.send(()).is_ok() {
                drop(order.reply.send(self.constraint(order.grammar)));
            }
        }
    }

    fn constraint(&mut self, grammar: Grammar) -> Result<Constraint, GrammarError> {
        // Another order for it may have been in front.
        if let Some(constraint) = self.kept.get(&grammar) {
            return Ok(constraint);
        }
        let lark = grammar.to_lark()?;
        let mut parser = Matcher::new(self.factory()?.create_parser(TopLevelGrammar::from_lark(lark)));
        // A mask at the start tells grammars apart that compile but cannot begin.
        parser.compute_mask_or_eos().map_err(|error| match super::lost(&error) {
            Lost::DeadEnd => invalid("none of the model's tokens can begin it"),
            Lost::Budget | Lost::Library => invalid(&error.to_string()),
        })?;
        let constraint = Constraint(parser);
        self.kept.put(grammar, constraint.clone());
        Ok(constraint)
    }

    fn factory(&mut self) -> Result<&ParserFactory, GrammarError> {
        if self.factory.is_none() {
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            let capabilities = InferenceCapabilities::default();
            let mut factory = ParserFactory::new(&environment(&self.vocabulary), capabilities, &slices)
                .map_err(|error| invalid(&error.to_string()))?;
            factory.quiet();
            *factory.limits_mut() = limits();
            self.factory = Some(factory);
        }
        Ok(self.factory.as_ref().expect("it was made above"))
    }
}

/// The library's budgets. Its errors would quote the response unless told not to.
fn limits() -> ParserLimits {
    ParserLimits {
        step_lexer_fuel: LEXER_FUEL,
        step_max_items: ITEMS_MAX,
        max_items_in_row: ROW_ITEMS_MAX,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The vocabulary as the library reads it: a control token has no text, so that no grammar can ask for one, except those
/// that end a response.
fn environment(vocabulary: &Vocabulary) -> TokEnv {
    let n_vocab = u32::try_from(vocabulary.size()).expect("llama.cpp counts its vocabulary in i32");
    let ends: Vec<u32> = vocabulary.end_tokens().map(|id| id.0).collect();
    let word = |id: u32| {
        let id = crate::token::TokenId(id);
        match vocabulary.is_end(id) {
            true => [&[CONTROL], vocabulary.piece(id)].concat(),
            false => vocabulary.text_piece(id).to_vec(),
        }
    };
    let words: Vec<Vec<u8>> = (0..n_vocab).map(word).collect();
    let info = TokRxInfo::new(n_vocab, vocabulary.end_token().0);
    Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words).with_eos_tokens(&ends)))
}

fn invalid(message: &str) -> GrammarError {
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    GrammarError::Invalid(format!("is no grammar that can be followed: {}", message.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(text: &str) -> Grammar {
        Grammar::Choice(vec![text.to_owned()])
    }

    /// Goal: who waits in vain behind others is told to come back, who was compiled in vain is told that it is too slow, and
    /// what is kept waits for nobody. Method: a thread that never begins, then one that begins and never ends.
    #[test]
    fn a_grammar_is_not_blamed_for_those_before_it() {
        let (door, orders) = bounded(QUEUE_MAX);
        let kept = Arc::new(Kept::default());
        let compiler = Compiler { door, kept, patience: Duration::from_millis(50) };
        assert_eq!(compiler.compile(choice("a")).unwrap_err(), GrammarError::Busy);
        let given_up = orders.recv().unwrap();
        assert!(given_up.begun.send(()).is_err(), "nobody waits for it any more");
        let bytes = ApproximateTokEnv::single_byte_env();
        let factory = ParserFactory::new(&bytes, InferenceCapabilities::default(), &[]).unwrap();
        let parser = Matcher::new(factory.create_parser(TopLevelGrammar::from_lark("start: \"b\"".to_owned())));
        compiler.kept.put(choice("b"), Constraint(parser));
        assert!(compiler.compile(choice("b")).is_ok());
        let slow = thread::spawn(move || {
            let order = orders.recv().unwrap();
            order.begun.send(()).unwrap();
            (order, orders)
        });
        assert_eq!(compiler.compile(choice("c")).unwrap_err(), GrammarError::TooSlow);
        drop(slow.join().unwrap());
        assert_eq!(compiler.compile(choice("d")).unwrap_err(), GrammarError::Ended);
    }
}
