//! Computed beginnings that no slot holds any more.
//!
//! A slot's cache is overwritten by the next prompt that has nothing in common with it. What it held may be wanted again
//! (the system prompt of another application, the next turn of a conversation), so it is moved here, and back
//! when a prompt begins with it: out of llama.cpp as a copy, which is some hundred times faster than computing, and of the decoder
//! as the pages themselves. Bounded in tokens, which is cells of the key-value cache; the least recently used goes first.

use crate::{
    engine::cells::{Audience, common_prefix},
    token::TokenId,
};

/// Beginnings with the state `S` that computing them gave.
#[derive(Debug)]
pub(super) struct PrefixCache<S> {
    entries: Vec<Entry<S>>,
    n_tokens: usize,
    n_tokens_max: usize,
    /// Tokens that are kept together: each entry takes whole pages of so many.
    page: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<S> {
    tokens: Vec<TokenId>,
    audience: Audience,
    state: S,
    used: u64,
}

/// A beginning that was found.
#[derive(Debug)]
pub(super) struct Found<'a, S> {
    /// All tokens of the state, of which the prompt may share only the first.
    pub(super) tokens: &'a [TokenId],
    /// What computing them gave.
    pub(super) state: &'a S,
}

impl<S> PrefixCache<S> {
    /// Holds at most `n_tokens_max` tokens, each entry in whole pages of `page`; 0 holds nothing.
    pub(super) fn new(n_tokens_max: usize, page: usize) -> PrefixCache<S> {
        PrefixCache { entries: Vec::new(), n_tokens: 0, n_tokens_max, page, clock: 0 }
    }

    fn in_pages(&self, tokens: &[TokenId]) -> usize {
        tokens.len().next_multiple_of(self.page)
    }

    /// Tokens that the best entry for a prompt shares with it.
    pub(super) fn shared(&self, prompt: &[TokenId], audience: &Audience) -> usize {
        self.best(prompt, audience).map_or(0, |(n, _)| n)
    }

    /// The best entry for a prompt, which is now the most recently used.
    pub(super) fn find(&mut self, prompt: &[TokenId], audience: &Audience) -> Option<Found<'_, S>> {
        let (_, at) = self.best(prompt, audience)?;
        self.clock += 1;
        let entry = &mut self.entries[at];
        entry.used = self.clock;
        Some(Found { tokens: &entry.tokens, state: &entry.state })
    }

    /// Whether these tokens would be worth their place: there is room for them, and no entry begins with them.
    pub(super) fn wants(&self, tokens: &[TokenId], audience: &Audience) -> bool {
        let has_room = self.in_pages(tokens) <= self.n_tokens_max;
        has_room && self.shared(tokens, audience) < tokens.len()
    }

    /// Adds a beginning. Entries that it continues go, and the least recently used until it fits.
    pub(super) fn insert(&mut self, tokens: Vec<TokenId>, audience: Audience, state: S) {
        self.clock += 1;
        self.remove_where(|entry| entry.audience == audience && tokens.starts_with(&entry.tokens));
        while self.n_tokens + self.in_pages(&tokens) > self.n_tokens_max {
            let Some(oldest) = self.entries.iter().map(|entry| entry.used).min() else {
                return;
            };
            self.remove_where(|entry| entry.used == oldest);
        }
        self.n_tokens += self.in_pages(&tokens);
        self.entries.push(Entry { tokens, audience, state, used: self.clock });
    }

    fn best(&self, prompt: &[TokenId], audience: &Audience) -> Option<(usize, usize)> {
        let admitted = (0..).zip(&self.entries).filter(|(_, entry)| entry.audience.admits(audience));
        admitted.map(|(at, entry)| (common_prefix(&entry.tokens, prompt), at)).max().filter(|(n, _)| *n > 0)
    }

    fn remove_where(&mut self, gone: impl Fn(&Entry<S>) -> bool) {
        self.entries.retain(|entry| !gone(entry));
        self.n_tokens = self.entries.iter().map(|entry| self.in_pages(&entry.tokens)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(u32::from(byte))).collect()
    }

    fn cache(n_tokens_max: usize, texts: &[&str]) -> PrefixCache<String> {
        let mut cache = PrefixCache::new(n_tokens_max, 1);
        for text in texts {
            cache.insert(ids(text), Audience::Everybody, (*text).to_owned());
        }
        cache
    }

    fn find(cache: &mut PrefixCache<String>, prompt: &str) -> Option<String> {
        cache.find(&ids(prompt), &Audience::Everybody).map(|found| found.state.clone())
    }

    #[test]
    fn the_entry_with_the_longest_common_beginning_is_found() {
        let mut cache = cache(100, &["system one", "system two", "other"]);
        assert_eq!(find(&mut cache, "system two, then").as_deref(), Some("system two"));
        assert_eq!(cache.shared(&ids("system th"), &Audience::Everybody), 8);
        assert_eq!(find(&mut cache, "x"), None);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_holds() {
        let mut cache = cache(12, &["aaaa", "bbbb", "cccc"]);
        find(&mut cache, "aaaa");
        cache.insert(ids("dddddd"), Audience::Everybody, "d".to_owned());
        assert_eq!(cache.n_tokens, 10, "both of the older ones went");
        assert!(find(&mut cache, "aaaa").is_some());
        assert!(find(&mut cache, "bbbb").is_none() && find(&mut cache, "cccc").is_none());
    }

    /// Goal: what is kept in pages is counted in pages, so that a plan of the memory holds. Method: pages of four tokens.
    #[test]
    fn entries_take_whole_pages() {
        let mut cache = PrefixCache::new(12, 4);
        for text in ["a", "bbbbb"] {
            cache.insert(ids(text), Audience::Everybody, text.to_owned());
        }
        assert_eq!(cache.n_tokens, 4 + 8);
        cache.insert(ids("cc"), Audience::Everybody, "cc".to_owned());
        assert_eq!((cache.n_tokens, find(&mut cache, "a")), (8 + 4, None), "the oldest went, for its page");
        assert!(!cache.wants(&ids("ddddddddddddd"), &Audience::Everybody), "thirteen tokens take sixteen");
    }

    #[test]
    fn a_beginning_lives_in_its_longest_continuation_only() {
        let mut cache = cache(100, &["turn one", "turn one, turn two"]);
        assert_eq!(cache.entries.len(), 1);
        assert!(!cache.wants(&ids("turn one,"), &Audience::Everybody));
        assert!(cache.wants(&ids("turn one, turn two, three"), &Audience::Everybody));
        assert!(!cache.wants(&ids(&"x".repeat(101)), &Audience::Everybody));
        assert!(find(&mut cache, "turn one").is_some());
        assert!(!PrefixCache::<()>::new(0, 1).wants(&ids("a"), &Audience::Everybody));
    }

    #[test]
    fn salts_keep_apart() {
        let salted = |salt: &str| Audience::Salted(salt.into());
        let mut cache = cache(100, &["secret"]);
        cache.insert(ids("secret"), salted("a"), "salted".to_owned());
        assert_eq!(cache.entries.len(), 2);
        assert_eq!(cache.find(&ids("secret"), &salted("a")).map(|f| f.state.as_str()), Some("salted"));
        assert_eq!(cache.shared(&ids("secret"), &salted("b")), 0);
        assert_eq!(find(&mut cache, "secret").as_deref(), Some("secret"));
        cache.insert(ids("nobody's"), Audience::Nobody, String::new());
        assert_eq!(cache.shared(&ids("nobody's"), &Audience::Nobody), 0);
    }
}
