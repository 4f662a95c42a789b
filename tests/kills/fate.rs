//! How one life ends.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Points where something has just changed on the disk or is about to.
const POINTS: [&str; 30] = [
    "file.write",
    "file.sync",
    "file.rename",
    "folder.sync",
    "log.begin",
    "log.commit",
    "log.committed",
    "schema.commit",
    "open.commit",
    "retention.commit",
    "log.checkpoint",
    "engine.start",
    "engine.started",
    "engine.load",
    "engine.loaded",
    "engine.promote",
    "engine.promoted",
    "claimed",
    "written",
    "registered",
    "judged",
    "committed",
    "settled",
    "ended",
    "saved",
    "version.removed",
    "import.copied",
    "import.registered",
    "import.judged",
    "import.kept",
];

/// What a process is told to do to itself, and how long it may live.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) failpoints: String,
    pub(super) life: Duration,
}

impl Fate {
    pub(super) fn draw(random: &mut ChaCha8Rng) -> Fate {
        let point = POINTS[random.random_range(0..POINTS.len())];
        let failpoints = match random.random_range(0..10) {
            // Any point, counted from the start of the process: starting reaches some thirty of them.
            0..=3 => format!("*=kill@{}", random.random_range(1..300)),
            4..=5 => format!("{point}=kill@{}", random.random_range(1..4)),
            // It fails, goes on, and is killed in what comes of that.
            6 => format!("*=error@{}; *=kill@{}", random.random_range(15..150), random.random_range(150..400)),
            7 => format!("{}=panic", ["written", "registered", "judged", "committed"][random.random_range(0..4)]),
            8 => format!("{point}=delay:300; *=kill@{}", random.random_range(20..300)),
            // Whatever it is doing.
            _ => String::new(),
        };
        Fate { failpoints, life: Duration::from_millis(random.random_range(300..2500)) }
    }
}
