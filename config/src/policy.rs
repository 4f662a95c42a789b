//! The `[policy]` section.

use crate::rule::{SERVED_NAME, SWITCH, TEXT, one_of, real, section, whole};

section! {
    /// What acts: the model that serves.
    Policy, "policy" {
        /// GGUF file to serve; empty: the small model that is built into the binary.
        model: String => TEXT;
        /// Name under which clients address the live policy.
        served_name: String => SERVED_NAME;
        /// Sequences decoded at once.
        parallel: usize => whole(1, 256);
        /// Tokens of prompt and response together, per sequence; 0: what the model was trained for, at most 4096.
        context_tokens: u32 => whole(0, 1_048_576);
        /// What computes on a processor. "auto": honed's own decoder for the Llama family in f32, f16, bf16 or Q8_0, llama.cpp for every other file and for GPUs. "honed": that decoder, or a refusal. "llama.cpp": nothing else.
        backend: String => one_of(&["auto", "honed", "llama.cpp"]);
        /// Threads of a forward pass; 0: one per processor core, but one in all for a model below 4 million parameters.
        threads: usize => whole(0, 512);
        /// Tokens in one forward pass; longer prompts are prefilled in chunks of this size between decode steps.
        batch_tokens: u32 => whole(32, 8192);
        /// Tokens of computed prompts kept beside the slots, per version in memory, for prompts that begin alike; 0: none. honed's decoder keeps them in pages of 32. Memory in f16: 4 bytes times layers times key-value width each (8192 tokens of a 135M Llama: 190 MB).
        prefix_cache_tokens: usize => whole(0, 16_777_216);
        /// Versions in memory beside version 0: the live one, and one more, be it a candidate, a file that is judged, or the version before, which waits for its return. A version that is loaded to go live at once has one place more, so that an activation or a rollback waits for nobody's judging. Each has a cache of its own. One that leaves counts until its last answer has ended: who wants its place or its memory waits, the learner as long as that takes, an import that has been copied for ten minutes, others for 10 seconds, and is refused then; so is at once an import that begins while all places are taken, and what would not fit into memory though nobody leaves.
        residents_max: usize => whole(2, 64);
        /// Promise that a seed gives the same bytes whatever else is running. honed's decoder always does; llama.cpp then computes every sequence in forward passes of its own, and nothing is batched or cached, so all requests together decode at the speed of one.
        deterministic: bool => SWITCH;
        /// Requests that may wait for a slot before newcomers get 429, but for one of each further key (max_queue_share); fewer where max_queue_sequences or max_queue_tokens is reached first.
        max_queue: usize => whole(0, 100_000);
        /// Sequences that those requests may ask for together before newcomers get 429, each prompt counted once for each of its choices that has no slot yet, and of one request no more than one client's share (max_queue_share); where nobody waits, a request is admitted whatever it asks for.
        max_queue_sequences: usize => whole(1, 100_000_000);
        /// Tokens that those sequences may still have together before newcomers get 429, each as many as its prompt has and max_tokens asks for, or the whole window where that is not given; what is said of sequences above is true of tokens too. By default 4096 sequences of 1024.
        max_queue_tokens: usize => whole(1, 1_000_000_000_000);
        /// Share of that queue, of its requests, their sequences and the tokens of these, which the requests of one API key may fill when several keys are configured, so that one client never shuts the others out. Where several are configured, a key of which nothing waits gets a small request into a full queue: up to 8 choices whose tokens, max_tokens among them, fit into one window. Of 64 keys at most, and none where max_queue is 0.
        max_queue_share: f64 => real(0.01, 1.0);
        /// Layers of the model on the GPU; 0: none. Needs the `cuda` feature.
        gpu_layers: u32 => whole(0, 1000);
        /// Attention of llama.cpp in one pass over the cache (Dao et al. 2022) rather than through a matrix of scores: a fifth to two thirds more tokens/s on a CPU. "auto": on, except for weights in f32, which are served for exactness. llama.cpp sums in f16 in it, so a log-prob differs by up to 0.005 from the trainer's, by 0.001 without.
        flash_attention: String => one_of(&["auto", "on", "off"]);
        /// Seed of the stream from which requests without a seed draw theirs.
        seed: u64 => whole(0, i64::MAX);
    }
}
