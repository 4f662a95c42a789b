use super::*;
use crate::{
    checkpoint::Checkpoint,
    vocabulary::{TokenizeError, Vocabulary},
};

fn vocabulary() -> Vocabulary {
    let folder = TempDir::new().unwrap();
    Vocabulary::load(&Model::default().write(&folder)).unwrap()
}

fn message(role: &str, content: &str) -> crate::Message {
    crate::Message { role: role.into(), content: content.into() }
}

#[test]
fn text_survives_the_round_trip() {
    let vocabulary = vocabulary();
    for text in ["", "the user", "Grüße, 🐻!\n\n  x", "a\0b", "<|user|>"] {
        assert_eq!(vocabulary.detokenize(&vocabulary.tokenize(text).unwrap(), false), text);
    }
    assert_eq!(
        vocabulary.prompt("the").unwrap(),
        vocabulary.tokenize("the").unwrap(),
        "this model wants no beginning token"
    );
}

/// Goal: a long run of one character is cut, not the end of the process, where llama.cpp cuts with `std::regex`. Method: the
/// model under the name of such patterns, and 100 KB of "!" on a test thread's 2 MiB.
#[test]
fn long_runs_are_cut_whatever_the_patterns() {
    let folder = TempDir::new().unwrap();
    let path = Model::default().write(&folder);
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    let name = candle_core::quantized::gguf_file::Value::String("default".into());
    checkpoint.metadata.set("tokenizer.ggml.pre", name);
    checkpoint.write(&path).unwrap();
    let vocabulary = Vocabulary::load(&path).unwrap();
    let run = "!".repeat(100_000);
    assert_eq!(vocabulary.tokenize(&run).unwrap().len(), run.len());
    let chat = vocabulary.chat(&[message("user", &run)]).unwrap();
    assert_eq!(chat.len(), run.len() + 2, "two control tokens around it");
    let error = vocabulary.prompt(&"!".repeat(1 << 20)).unwrap_err();
    assert!(matches!(error, TokenizeError::TooLong { n_chars: 1_048_576, .. }), "{error}");
}

#[test]
fn merges_apply() {
    let vocabulary = vocabulary();
    assert_eq!(vocabulary.tokenize(" the").unwrap().len(), 1);
    assert_eq!(vocabulary.piece(vocabulary.tokenize(" the").unwrap()[0]), b" the");
}

#[test]
fn control_tokens_come_from_templates_only() {
    let vocabulary = vocabulary();
    assert!(vocabulary.tokenize("<|endoftext|>").unwrap().len() > 1);
    assert_eq!(
        vocabulary.tokenize_special("a<|endoftext|>").unwrap(),
        [vocabulary.tokenize("a").unwrap()[0], TokenId(0)]
    );
    let tokens = vocabulary.chat(&[message("user", "hi<|endoftext|><|system|>")]).unwrap();
    assert_eq!(tokens.iter().filter(|id| id.0 < 5).map(|id| id.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(vocabulary.detokenize(&tokens, true), "<|user|>hi<|endoftext|><|system|><|assistant|>");
    assert_eq!(vocabulary.detokenize(&tokens, false), "hi<|endoftext|><|system|>");
}

#[test]
fn an_answer_is_tokenised_as_it_would_have_been_sampled() {
    let vocabulary = vocabulary();
    let prompt = [message("user", "what?")];
    let exchange = [message("user", "what?"), message("assistant", "the <|user|>")];
    let mut want = vocabulary.chat(&prompt).unwrap();
    want.extend(vocabulary.tokenize("the <|user|>").unwrap());
    want.push(TokenId(0));
    assert_eq!(vocabulary.chat_with_answer(&exchange).unwrap(), want);
    assert!(vocabulary.chat_with_answer(&prompt).is_err());
}

#[test]
fn ends_and_ids_are_known() {
    let vocabulary = vocabulary();
    assert_eq!(vocabulary.end_token(), TokenId(0));
    assert!(vocabulary.is_end(TokenId(0)) && !vocabulary.is_end(TokenId(9)));
    assert_eq!(vocabulary.size(), 5 + 256 + 7);
    assert_eq!(vocabulary.piece(TokenId(99_999)), b"");
    assert!(!vocabulary.is_end(TokenId(u32::MAX)));
    assert_eq!(vocabulary.trained_context(), Some(model::CONTEXT));
}

#[test]
fn the_digest_is_the_tokenizers() {
    let folder = TempDir::new().unwrap();
    let digest = |model: Model| Vocabulary::load(&model.write(&folder)).unwrap().digest().to_owned();
    let one = digest(Model::default());
    assert_eq!(one, digest(Model { seed: 2, ..Model::default() }));
    let path = Model { seed: 3, ..Model::default() }.write(&folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"<|pad|").unwrap();
    bytes[at + 2] = b'q';
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(one, Vocabulary::load(&path).unwrap().digest());
}
