//! From answers to a verdict: counts in a row, and a hold for a backend that keeps changing its mind. No I/O.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Failure;
use crate::config::HealthCheck;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not enough answers yet, or no checks: it counts as healthy.
    #[default]
    Unknown,
    /// It answers.
    Healthy,
    /// It does not, or is held back for flapping.
    Unhealthy,
}

impl Verdict {
    /// For a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The state of one check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct State {
    /// The verdict.
    pub verdict: Verdict,
    /// When it last changed.
    pub since: Option<SystemTime>,
    /// Why the last check that failed did.
    pub cause: Option<String>,
    /// Whether it stays unhealthy for changing too often.
    pub is_flapping: bool,
    /// How often the verdict changed.
    pub flaps: u64,
    /// Why the last check could not be made, which says nothing of the backend.
    pub not_asked: Option<String>,
    /// How long the last check took.
    pub last: Option<Duration>,
    #[serde(skip)]
    row: u8,
    #[serde(skip)]
    row_is_good: bool,
    #[serde(skip)]
    changes: VecDeque<Instant>,
    #[serde(skip)]
    holds: u32,
    #[serde(skip)]
    recovered: Option<Instant>,
    #[serde(skip)]
    held_until: Option<Instant>,
}

/// More changes than this within [`WINDOW`] are flapping.
const MAX_CHANGES: usize = 5;
const WINDOW: Duration = Duration::from_mins(5);
/// The first hold; each further one is twice as long, up to [`MAX_HOLD`], until the backend was healthy for a whole [`WINDOW`].
const FIRST_HOLD: Duration = Duration::from_secs(30);
const MAX_HOLD: Duration = Duration::from_mins(10);

impl State {
    /// What an agent knows of a backend that the one before found unhealthy.
    pub(super) fn unhealthy_before() -> Self {
        let cause = Some("it did not answer the agent before this one".to_owned());
        Self { verdict: Verdict::Unhealthy, since: Some(SystemTime::now()), cause, ..Self::default() }
    }

    /// Takes an answer; whether the verdict changed in what it means for traffic. A check that could not be made changes
    /// nothing, not even the row.
    pub(super) fn note(
        &mut self,
        answer: &Result<(), Failure>,
        check: &HealthCheck,
        now: Instant,
        took: Duration,
    ) -> bool {
        let is_good = match answer {
            Err(Failure::Own(problem)) => {
                self.not_asked = Some(problem.clone());
                return false;
            }
            Err(Failure::Backend(cause)) => {
                self.cause = Some(cause.clone());
                false
            }
            Ok(()) => {
                if self.verdict != Verdict::Unhealthy {
                    self.cause = None;
                }
                true
            }
        };
        self.not_asked = None;
        self.last = Some(took);
        self.row = if is_good == self.row_is_good { self.row.saturating_add(1) } else { 1 };
        self.row_is_good = is_good;
        match self.verdict {
            Verdict::Unknown if is_good && self.row >= check.healthy => {
                self.verdict = Verdict::Healthy;
                self.since = Some(SystemTime::now());
                false
            }
            Verdict::Unknown | Verdict::Healthy if !is_good && self.row >= check.unhealthy => {
                self.change(Verdict::Unhealthy, now);
                self.hold(now);
                true
            }
            Verdict::Unhealthy
                if is_good && self.row >= check.healthy && self.held_until.is_none_or(|end| now >= end) =>
            {
                self.change(Verdict::Healthy, now);
                self.recovered = Some(now);
                self.held_until = None;
                self.is_flapping = false;
                self.cause = None;
                true
            }
            _ => false,
        }
    }

    /// Holds a backend back that just failed, if it changes too often or did so a short while ago.
    fn hold(&mut self, now: Instant) {
        if self.recovered.is_none_or(|recovered| now - recovered > WINDOW) {
            self.holds = 0;
        }
        if self.holds > 0 || self.changes.len() > MAX_CHANGES {
            let hold = FIRST_HOLD.saturating_mul(1 << self.holds.min(8)).min(MAX_HOLD);
            self.holds = self.holds.saturating_add(1);
            self.held_until = Some(now + hold);
            self.is_flapping = true;
        }
    }

    fn change(&mut self, verdict: Verdict, now: Instant) {
        self.verdict = verdict;
        self.since = Some(SystemTime::now());
        self.flaps += 1;
        self.changes.push_back(now);
        while self.changes.front().is_some_and(|&change| now - change > WINDOW) {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{super::bad, *};
    use crate::config::HealthCheckKind;

    const CHECK: HealthCheck = HealthCheck {
        kind: HealthCheckKind::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy: 2,
        unhealthy: 3,
    };

    /// One interval later: `+` a good answer, `-` a bad one, `?` none that the agent could ask for.
    async fn next(state: &mut State, answer: char) -> bool {
        advance(CHECK.interval).await;
        let answer = match answer {
            '+' => Ok(()),
            '-' => Err(bad("connection refused")),
            _ => Err(Failure::Own("too many open files".into())),
        };
        state.note(&answer, &CHECK, Instant::now(), Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn rise_and_fall() {
        use Verdict::{Healthy, Unhealthy, Unknown};
        let cases = [
            ("nothing yet", "", Unknown, 0, None),
            ("one short of healthy", "+", Unknown, 0, None),
            ("healthy", "++", Healthy, 0, None),
            ("one short of unhealthy", "++--", Healthy, 0, Some("connection refused")),
            ("a good answer takes the cause with it", "++--+", Healthy, 0, None),
            ("rows begin anew", "++--+--", Healthy, 0, Some("connection refused")),
            ("unhealthy", "++---", Unhealthy, 1, Some("connection refused")),
            ("unhealthy from the start", "---", Unhealthy, 1, Some("connection refused")),
            ("the cause stays until it is healthy", "---+", Unhealthy, 1, Some("connection refused")),
            ("healthy again", "---++", Healthy, 2, None),
            ("trouble of the agent changes nothing", "++????????", Healthy, 0, None),
            ("trouble of the agent heals nothing", "---????????", Unhealthy, 1, Some("connection refused")),
            ("trouble of the agent interrupts no row", "++--?-", Unhealthy, 1, Some("connection refused")),
        ];
        for (name, answers, verdict, flaps, cause) in cases {
            let mut state = State::default();
            for answer in answers.chars() {
                next(&mut state, answer).await;
            }
            assert_eq!((state.verdict, state.flaps, state.cause.as_deref()), (verdict, flaps, cause), "{name}");
            assert_eq!(state.not_asked.is_some(), answers.ends_with('?'), "{name}");
        }
    }

    /// Fails until unhealthy, then answers until healthy; how long it was unhealthy.
    async fn flap(state: &mut State) -> Duration {
        while state.verdict != Verdict::Unhealthy {
            next(state, '-').await;
        }
        let begin = Instant::now();
        while state.verdict == Verdict::Unhealthy {
            next(state, '+').await;
        }
        assert!(!state.is_flapping);
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn flapping_is_held_back_ever_longer_until_it_ends() {
        let mut state = State::default();
        let mut away = Vec::new();
        for _ in 0..10 {
            away.push(flap(&mut state).await.as_secs());
        }
        assert_eq!(away, [10, 10, 10, 30, 60, 120, 240, 480, 600, 600]);
        let begin = Instant::now();
        while begin.elapsed() <= WINDOW {
            assert!(!next(&mut state, '+').await);
        }
        assert_eq!(flap(&mut state).await.as_secs(), 10, "after a steady while");
    }
}
