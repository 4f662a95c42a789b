//! Who did what, and how it ended: the values of the audit log.

use policy::checkpoint::Digest;

use crate::clock::now_ms;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// `key:` and the first eight hex digits of the key's SHA-256, `local` where no key is asked for, `cli`, `signal`, `folder`
    /// (the watched one), `learner`, `watch` (over the live version), or `start` (repairs when a log is opened).
    pub actor: String,
    /// Address of the other end of the connection.
    pub remote: Option<String>,
    /// `x-request-id` of the request.
    pub request: Option<String>,
}

impl Who {
    fn of_this_machine(actor: &str) -> Who {
        Who { actor: actor.to_owned(), remote: None, request: None }
    }

    /// A command on a folder that no daemon has.
    #[must_use]
    pub fn cli() -> Who {
        Who::of_this_machine("cli")
    }

    /// SIGHUP.
    #[must_use]
    pub fn signal() -> Who {
        Who::of_this_machine("signal")
    }

    /// The watched import folder.
    #[must_use]
    pub fn folder() -> Who {
        Who::of_this_machine("folder")
    }

    /// The learner: publications, refusals of the gate, retention, guard rails.
    #[must_use]
    pub fn learner() -> Who {
        Who::of_this_machine("learner")
    }

    /// The watch over the live version.
    #[must_use]
    pub fn watch() -> Who {
        Who::of_this_machine("watch")
    }

    /// Repairs at the start.
    #[must_use]
    pub fn start() -> Who {
        Who::of_this_machine("start")
    }

    /// Whoever holds this key; of the key itself nothing is kept.
    #[must_use]
    pub fn key(key: &[u8], remote: Option<String>, request: Option<String>) -> Who {
        Who { actor: format!("key:{}", short_digest(key, 8)), remote, request }
    }

    /// Whoever is on this machine, where no key is asked for.
    #[must_use]
    pub fn local(remote: Option<String>, request: Option<String>) -> Who {
        Who { actor: "local".to_owned(), remote, request }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A version was made live.
    Activate,
    /// The watch made an earlier version live.
    Rollback,
    /// The learner made its candidate live.
    Promote,
    /// A candidate of the learner was refused, or given up.
    Reject,
    /// A file became a version, or was to.
    Import,
    /// An average of the learner's weights was kept as a version, live only if somebody activates it.
    Keep,
    /// A version's files were removed.
    Retire,
    /// Learning was paused.
    Pause,
    /// Learning was resumed.
    Resume,
    /// One update while paused was asked for.
    Step,
    /// Another reward model was seated, or the same file read again.
    RewardModel,
    /// A user was forgotten.
    Forget,
    /// The key files were read again.
    ReloadKeys,
}

impl Action {
    /// All actions.
    pub const ALL: [Action; 13] = [
        Action::Activate,
        Action::Rollback,
        Action::Promote,
        Action::Reject,
        Action::Import,
        Action::Keep,
        Action::Retire,
        Action::Pause,
        Action::Resume,
        Action::Step,
        Action::RewardModel,
        Action::Forget,
        Action::ReloadKeys,
    ];

    /// The word in the column, in the API and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Activate => "activate",
            Action::Rollback => "rollback",
            Action::Promote => "promote",
            Action::Reject => "reject",
            Action::Import => "import",
            Action::Keep => "keep",
            Action::Retire => "retire",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Step => "step",
            Action::RewardModel => "reward_model",
            Action::Forget => "forget",
            Action::ReloadKeys => "reload_keys",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.as_str() == word)
    }
}

/// Somebody's doing, before it is known how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Whose.
    pub who: Who,
    /// What.
    pub action: Action,
    /// To what: `policy@N`, a file as it was named, `model@<digest>`, `user:` and half of the SHA-256 of a user's name.
    pub subject: Option<String>,
}

impl Act {
    /// Of somebody, on something.
    #[must_use]
    pub fn new(who: &Who, action: Action, subject: impl Into<Option<String>>) -> Act {
        Act { who: who.clone(), action, subject: subject.into() }
    }

    /// It was done.
    #[must_use]
    pub fn done(self) -> AuditRow {
        self.ended(true, None)
    }

    /// It was done, and there is something to be said about it.
    #[must_use]
    pub fn done_with(self, detail: impl ToString) -> AuditRow {
        self.ended(true, Some(detail.to_string()))
    }

    /// It was refused or failed.
    #[must_use]
    pub fn refused(self, why: impl ToString) -> AuditRow {
        self.ended(false, Some(why.to_string()))
    }

    fn ended(self, is_done: bool, detail: Option<String>) -> AuditRow {
        AuditRow { number: 0, at_ms: now_ms(), act: self, is_done, detail }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place, counted from 1 and never reused; 0 before it is stored.
    pub number: u64,
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who did what.
    pub act: Act,
    /// Whether it was done; otherwise it was refused.
    pub is_done: bool,
    /// Why it was refused, or what it came to.
    pub detail: Option<String>,
}

impl AuditRow {
    /// The word of its outcome.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        if self.is_done { "done" } else { "refused" }
    }
}

/// A user as the audit log names them: to ask whether somebody was forgotten one has to know the name.
#[must_use]
pub fn user_subject(user: &str) -> String {
    format!("user:{}", short_digest(user.as_bytes(), 32))
}

fn short_digest(bytes: &[u8], n_digits: usize) -> String {
    let mut digits = Digest::of(bytes).to_string();
    digits.truncate(n_digits);
    digits
}
