//! Failpoints: places where a test can have the process fail, stall or die.
//!
//! Every sync, rename, commit, load and promotion has one, and every forward pass. They are compiled in always, so that what is
//! tested is what is shipped; unarmed, one costs a relaxed load. They are armed once at the start of a process, by
//! `daemon.failpoints`, which a release build refuses.
//!
//! ```text
//! file.rename=kill@3; log.commit=error; *=delay:50@7
//! ```
//! `NAME=ACTION@N` acts at the Nth time that the point is reached (the first, without `@N`), once; `NAME=ACTION@N+` each time from
//! then on. `*` is any point but `engine.step`. Actions: `kill` (as `kill -9`), `error` (where the place can fail), `panic`,
//! `delay:MS`.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Names, and whether the place can return an error.
const POINTS: [(&str, bool); 36] = [
    ("file.write", true),
    ("file.sync", true),
    ("file.rename", true),
    ("folder.sync", true),
    ("log.begin", true),
    ("log.commit", true),
    ("log.committed", false),
    ("schema.commit", true),
    ("open.commit", true),
    ("retention.commit", true),
    ("log.vacuum", true),
    ("log.checkpoint", true),
    ("engine.start", true),
    ("engine.started", false),
    ("engine.load", true),
    ("engine.loaded", false),
    ("engine.promote", true),
    ("engine.promoted", false),
    (FREQUENT, false),
    ("reward.load", true),
    ("reward.seated", false),
    ("update.weights", true),
    ("claimed", false),
    ("written", false),
    ("registered", false),
    ("judged", false),
    ("committed", false),
    ("settled", false),
    ("ended", false),
    ("saved", false),
    ("rolled_back", false),
    ("version.removed", false),
    ("import.copied", false),
    ("import.registered", false),
    ("import.judged", false),
    ("import.kept", false),
];

/// Reached thousands of times a second: among those that `*` means nobody would come to any other.
const FREQUENT: &str = "engine.step";

/// Milliseconds of the longest delay.
const DELAY_MS_MAX: u64 = 60_000;

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static RULES: Mutex<Vec<Rule>> = Mutex::new(Vec::new());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Error,
    Panic,
    Kill,
    Delay(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `None` is any point.
    name: Option<&'static str>,
    action: Action,
    /// Times that the point is reached until it acts; 0: it has acted.
    n_until: u64,
    /// Whether it acts each time from then on.
    stays: bool,
}

/// Arms what the text says, in place of what was armed before; an empty text disarms.
///
/// # Errors
/// With the part that is no rule.
pub fn arm(text: &str) -> Result<(), String> {
    let rules = parse(text)?;
    let mut armed = RULES.lock().unwrap_or_else(PoisonError::into_inner);
    IS_ARMED.store(!rules.is_empty(), Ordering::Release);
    *armed = rules;
    Ok(())
}

/// Says that a place is reached which can fail.
///
/// # Errors
/// When a rule says so.
pub fn reached(name: &'static str) -> io::Result<()> {
    match next_action(name) {
        Some(Action::Error) => Err(io::Error::other(format!("failpoint {name}"))),
        Some(action) => {
            act(name, action);
            Ok(())
        }
        None => Ok(()),
    }
}

/// Says that a place is reached where nothing can fail.
pub fn passed(name: &'static str) {
    if let Some(action) = next_action(name) {
        act(name, action);
    }
}

fn next_action(name: &'static str) -> Option<Action> {
    if !IS_ARMED.load(Ordering::Relaxed) {
        return None;
    }
    let can_fail = POINTS.iter().find(|point| point.0 == name).unwrap_or_else(|| panic!("no failpoint is {name}")).1;
    due(&mut RULES.lock().unwrap_or_else(PoisonError::into_inner), name, can_fail)
}

/// Counts the visit in every rule that it concerns; the action of the first whose turn it is.
fn due(rules: &mut [Rule], name: &str, can_fail: bool) -> Option<Action> {
    let mut action = None;
    for rule in rules.iter_mut().filter(|rule| rule.n_until > 0) {
        let is_meant = rule.name.map_or(name != FREQUENT, |of| of == name);
        if is_meant && (can_fail || rule.action != Action::Error) {
            rule.n_until -= 1;
            if rule.n_until == 0 {
                action = action.or(Some(rule.action));
                rule.n_until = u64::from(rule.stays);
            }
        }
    }
    action
}

fn act(name: &str, action: Action) {
    if name != FREQUENT {
        tracing::warn!(name, ?action, "failpoint");
    }
    match action {
        Action::Delay(pause) => std::thread::sleep(pause),
        Action::Panic => panic!("failpoint {name}"),
        Action::Kill => {
            // SAFETY: no memory is touched; the process ends here, without a word to anybody.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            // Death may take a moment to arrive, and nothing may be done meanwhile.
            loop {
                std::thread::park();
            }
        }
        Action::Error => unreachable!("the caller returns it"),
    }
}

fn parse(text: &str) -> Result<Vec<Rule>, String> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(parse_rule).collect()
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let wrong = |expected: &str| format!("failpoint {text:?}: expected {expected}");
    let (name, rest) = text.split_once('=').ok_or_else(|| wrong("NAME=ACTION"))?;
    let (action, n) = rest.split_once('@').unwrap_or((rest, "1"));
    let n_until = n.strip_suffix('+').unwrap_or(n).parse().ok().filter(|n| *n > 0);
    let n_until = n_until.ok_or_else(|| wrong("a count from 1 after @"))?;
    let stays = n.ends_with('+');
    let action = match (action, action.strip_prefix("delay:").map(str::parse::<u64>)) {
        ("error", _) => Action::Error,
        ("panic", _) => Action::Panic,
        ("kill", _) => Action::Kill,
        (_, Some(Ok(ms))) if ms <= DELAY_MS_MAX => Action::Delay(Duration::from_millis(ms)),
        _ => return Err(wrong("error, panic, kill or delay:MS")),
    };
    if name == "*" {
        return Ok(Rule { name: None, action, n_until, stays });
    }
    let names = || POINTS.map(|(name, _)| name).join(", ");
    let point = POINTS.iter().find(|point| point.0 == name).ok_or_else(|| wrong(&format!("one of *, {}", names())))?;
    if action == Action::Error && !point.1 {
        return Err(wrong("another action: this place cannot fail"));
    }
    Ok(Rule { name: Some(point.0), action, n_until, stays })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of ten visits to these points acts.
    fn acts(text: &str, visits: &[&'static str]) -> Vec<Option<Action>> {
        let mut rules = parse(text).unwrap();
        let can_fail = |name: &str| POINTS.iter().find(|point| point.0 == name).unwrap().1;
        visits.iter().map(|name| due(&mut rules, name, can_fail(name))).collect()
    }

    #[test]
    fn a_rule_acts_once_at_its_turn() {
        let visits = ["file.sync", "log.commit", "file.sync", "file.sync"];
        assert_eq!(acts("file.sync=kill@2", &visits), [None, None, Some(Action::Kill), None]);
        assert_eq!(acts("file.sync=panic", &visits), [Some(Action::Panic), None, None, None]);
        let pause = Action::Delay(Duration::from_millis(5));
        assert_eq!(acts("*=delay:5@2; file.sync=error@3", &visits), [None, Some(pause), None, Some(Action::Error)]);
    }

    #[test]
    fn a_rule_that_stays_acts_each_time_from_its_turn_on() {
        let pause = Action::Delay(Duration::from_millis(5));
        let visits = ["engine.step", "log.commit", "engine.step", "engine.step"];
        assert_eq!(acts("engine.step=delay:5@2+", &visits), [None, None, Some(pause), Some(pause)]);
        assert_eq!(acts("engine.step=delay:5@1+; engine.step=panic@2", &visits[..3]), [Some(pause), None, Some(pause)]);
        assert_eq!(acts("*=kill", &visits), [None, Some(Action::Kill), None, None], "no pass is any point");
    }

    #[test]
    fn an_error_waits_for_a_place_that_can_fail() {
        assert_eq!(acts("*=error", &["committed", "log.committed", "log.begin"]), [None, None, Some(Action::Error)]);
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (text, part) in [
            ("file.sync", "NAME=ACTION"),
            ("file.sink=kill", "file.sync"),
            ("file.sync=explode", "delay:MS"),
            ("file.sync=kill@0", "from 1"),
            ("file.sync=kill@+", "from 1"),
            ("file.sync=delay:99999999", "delay:MS"),
            ("committed=error", "cannot fail"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
        assert_eq!(parse(" ; ").unwrap(), []);
    }
}
