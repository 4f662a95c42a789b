//! Who owns which prompt, and who is held out.
//!
//! A prompt belongs to the one user that a hash of its text names, and a user belongs to the one split that a hash of
//! their id names (InstructGPT 3.2). So neither a user nor a prompt is ever in two splits, whatever order prompts are
//! drawn in, and the split of a user does not change when prompts are added.

/// Users of the world.
pub const USERS: u64 = 400;

/// What a user's prompts are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Demonstrations, rankings and live traffic.
    Train,
    /// Choices made while building: when to stop, which settings.
    Validation,
    /// The numbers that are reported, and nothing else.
    Test,
}

/// The user who asks this.
pub fn owner(instruction: &str) -> String {
    format!("user-{:03}", fnv1a("owner", instruction) % USERS)
}

/// The split of a user: 80, 8 and 12 in a hundred.
pub fn split_of(user: &str) -> Split {
    match fnv1a("split", user) % 100 {
        0..80 => Split::Train,
        80..88 => Split::Validation,
        _ => Split::Test,
    }
}

/// FNV-1a in 64 bits with a final mix, salted so that owner and split do not depend on each other.
fn fnv1a(salt: &str, text: &str) -> u64 {
    let hash = salt
        .bytes()
        .chain([0])
        .chain(text.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of FNV alone are weak for texts that differ in their last letters only.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}
