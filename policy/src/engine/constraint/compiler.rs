//! The thread that compiles grammars: neither a stream nor the runtime ever waits for one.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
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
/// Longest that a caller waits, the queue included.
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
pub(in crate::engine) struct Compiler(Sender<Order>);

struct Order {
    grammar: Grammar,
    until: Instant,
    reply: Sender<Result<Constraint, GrammarError>>,
}

impl Compiler {
    /// Starts the thread; the tables of the vocabulary are made when the first grammar comes.
    pub(in crate::engine) fn start(vocabulary: Arc<Vocabulary>) -> Result<Compiler, EngineError> {
        let (door, orders) = bounded(QUEUE_MAX);
        let body = move || Bench { vocabulary, factory: None, kept: VecDeque::new() }.serve(&orders);
        thread::Builder::new()
            .name("engine-grammar".into())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|e| EngineError::Thread(PolicyVersion::SFT, e))?;
        Ok(Compiler(door))
    }

    /// Compiles a grammar; blocks the caller for at most [`PATIENCE`].
    pub(in crate::engine) fn compile(&self, grammar: Grammar) -> Result<Constraint, GrammarError> {
        let (reply, answer) = bounded(1);
        let until = Instant::now() + PATIENCE;
        self.0.try_send(Order { grammar, until, reply }).map_err(|error| match error {
            TrySendError::Full(_) => GrammarError::Busy,
            TrySendError::Disconnected(_) => GrammarError::Ended,
        })?;
        answer.recv_deadline(until).map_err(|_| GrammarError::TooSlow)?
    }
}

/// What the thread owns.
struct Bench {
    vocabulary: Arc<Vocabulary>,
    factory: Option<ParserFactory>,
    kept: VecDeque<(Grammar, Constraint)>,
}

impl Bench {
    fn serve(mut self, orders: &Receiver<Order>) {
        for order in orders {
            // Whoever has given up needs no answer.
            if Instant::now() < order.until {
                drop(order.reply.send(self.constraint(order.grammar)));
            }
        }
    }

    fn constraint(&mut self, grammar: Grammar) -> Result<Constraint, GrammarError> {
        if let Some(at) = self.kept.iter().position(|(kept, _)| *kept == grammar) {
            let entry = self.kept.remove(at).expect("it was found there");
            let constraint = entry.1.clone();
            self.kept.push_front(entry);
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
        self.kept.truncate(KEPT_MAX - 1);
        self.kept.push_front((grammar, constraint.clone()));
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
