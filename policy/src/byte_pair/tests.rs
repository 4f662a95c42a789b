use super::*;

const TEXTS: [&str; 4] = [
    "The ocean is vast, deep and tranquil.",
    "What color is the sky? The sky is blue.",
    "A brown bear goes to the beach and makes friends with a seal.",
    "the the the ocean ocean sky sky bear bear",
];

/// Texts that a tokenizer likes to get wrong: spaces, contractions, digits, accents, emoji, control characters.
pub(crate) const VARIED: [&str; 12] = [
    "The ocean is blue.",
    "  two spaces, three   spaces, a tab\tand a\nnewline\n\n",
    "don't we'll I'm they've DON'T",
    "3.14159 1,000,000 ½ ² ١٢٣",
    "naïve café Straße ÑANDÚ",
    "日本語のテキスト 한국어 עברית",
    "🐻🏖️👩‍👩‍👧 emoji",
    "<|user|> typed by hand <|endoftext|>",
    "\u{0}\u{1}\u{7f}\u{a0}\u{ad}\u{feff}",
    "snake_case camelCase $%&/()=?!",
    "a",
    " ",
];

fn bpe() -> Bpe {
    Bpe::learn(TEXTS.iter(), 280, &SPECIAL_TOKENS).unwrap()
}

#[test]
fn every_text_comes_back_from_its_tokens() {
    for text in VARIED.iter().chain(&TEXTS) {
        assert_eq!(bpe().decode(&bpe().encode(text).unwrap()), *text);
    }
}

#[test]
fn learning_twice_gives_the_same_vocabulary_of_the_asked_size() {
    let (a, b) = (bpe(), bpe());
    assert_eq!((&a.tokens, &a.merges), (&b.tokens, &b.merges));
    assert_eq!(a.size(), 280);
    assert_eq!(a.tokens[..5], SPECIAL_TOKENS);
}

#[test]
fn frequent_words_become_single_tokens() {
    assert_eq!(bpe().encode(" the ocean").unwrap().len(), 2);
}

#[test]
fn a_typed_special_token_is_only_letters() {
    let ids = bpe().encode("<|endoftext|>").unwrap();
    assert!(ids.len() > 1 && ids.iter().all(|id| id.0 >= 5), "{ids:?}");
}

#[test]
fn a_vocabulary_survives_its_metadata() {
    let again = Bpe::from_metadata(&bpe().metadata(CHAT_TEMPLATE)).unwrap();
    for text in VARIED {
        assert_eq!(again.encode(text).unwrap(), bpe().encode(text).unwrap());
        assert_eq!(again.decode(&again.encode(text).unwrap()), text);
    }
}

#[test]
fn too_small_a_vocabulary_is_refused() {
    assert!(Bpe::learn(TEXTS.iter(), 200, &SPECIAL_TOKENS).is_err());
}

#[test]
fn the_number_of_special_tokens_is_read_from_the_types_of_the_metadata() {
    let again = Bpe::from_metadata(&bpe().metadata(CHAT_TEMPLATE)).unwrap();
    let special: Vec<TokenId> = (0..SPECIAL_TOKENS.len() as u32).map(TokenId).collect();
    assert_eq!(again.decode(&special), "", "special tokens have no text");
    let first_byte = TokenId(SPECIAL_TOKENS.len() as u32);
    assert_ne!(again.decode(&[first_byte]), "", "the first byte is no special token");
}
