//! Runs the plan: a thread per connection, never more than allowed at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::connection::{Connection, Protocol, Target};
use super::plan::{self, Fate, Limit, Plan, Trial};

#[derive(Clone, Debug)]
pub struct Options {
    pub max: Duration,
    pub connections: usize,
}

/// Told as it goes on, for a progress bar.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress<'a> {
    /// A round begins: its idle times, and how long it will take, tests included.
    Round {
        idle_s: &'a [f64],
        takes: Duration,
    },
    /// Called about ten times a second while connections idle.
    Tick {
        since_round: Duration,
    },
    Trial(&'a Trial),
}

/// A trial with the cookie of its socket, to join packet facts.
struct Done {
    trial: Trial,
    cookie: Option<u64>,
}

/// A test that is not answered takes this long, at most.
const TEST: Duration = Duration::from_secs(4);
/// Other connections may show the same FIN a little later: more samples of one limit.
const WITNESS: f64 = 1.1;

/// Runs until the limit is known or `stop` is set; what is known then is returned. `origin` tells who sent the RST
/// of a socket, by its cookie, where that is known.
pub fn run(
    target: &Target,
    protocol: &Protocol,
    options: &Options,
    stop: &Arc<AtomicBool>,
    mut origin: impl FnMut(u64) -> Option<String>,
    mut progress: impl FnMut(Progress<'_>),
) -> Vec<Trial> {
    let mut plan = Plan::new(options.max, options.connections);
    let mut trials: Vec<Trial> = Vec::new();
    let mut times = plan.first();
    while !times.is_empty() && !stop.load(Ordering::Relaxed) {
        let round = Round { target, protocol, limit: options.connections, keepalive: None };
        trials.extend(round.run(&times, stop, &mut origin, &mut progress));
        times = plan.next(&trials);
    }
    if let (Some(limit), false) = (plan::limit(&trials).estimate_s(), stop.load(Ordering::Relaxed)) {
        // Would keepalive have saved it? One connection, idle for twice the limit, with probes at a third of it.
        let keepalive = Some(((limit / 3.0).floor() as u32).max(1));
        let round = Round { target, protocol, limit: 1, keepalive };
        trials.extend(round.run(&[limit * 2.0 + 1.0], stop, &mut origin, &mut progress));
    }
    trials
}

struct Round<'a> {
    target: &'a Target,
    protocol: &'a Protocol,
    limit: usize,
    keepalive: Option<u32>,
}

impl Round<'_> {
    fn run(
        &self,
        times: &[f64],
        stop: &Arc<AtomicBool>,
        origin: &mut impl FnMut(u64) -> Option<String>,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Vec<Trial> {
        let longest = times.iter().copied().fold(0.0, f64::max);
        progress(Progress::Round { idle_s: times, takes: Duration::from_secs_f64(longest) + TEST });
        let begun = Instant::now();
        // One switch per connection: those that idle beyond a failure already seen tell nothing more.
        let mut waiting: Vec<f64> = times.to_vec();
        waiting.sort_by(|a, b| b.total_cmp(a));
        let mut running: Vec<(f64, Arc<AtomicBool>)> = Vec::new();
        let (tx, rx): (Sender<Option<Done>>, Receiver<_>) = channel();
        let mut trials: Vec<Trial> = Vec::new();
        let mut active = 0usize;
        loop {
            while active < self.limit
                && let Some(idle_s) = waiting.pop()
            {
                let cancel = Arc::new(AtomicBool::new(false));
                running.push((idle_s, cancel.clone()));
                active += 1;
                self.spawn(idle_s, cancel, tx.clone());
            }
            if active == 0 {
                break;
            }
            if let Ok(done) = rx.recv_timeout(Duration::from_millis(100)) {
                active -= 1;
                if let Some(Done { mut trial, cookie }) = done {
                    if matches!(trial.fate, Fate::ResetOnTest | Fate::ResetWhileIdle { .. }) {
                        trial.reset_origin = cookie.and_then(&mut *origin);
                    }
                    if matches!(trial.fate, Fate::Unusable { .. })
                        && trials.iter().all(|t| matches!(t.fate, Fate::Unusable { .. }))
                    {
                        // Nothing works so far: do not knock again and again.
                        waiting.clear();
                    }
                    progress(Progress::Trial(&trial));
                    trials.push(trial);
                }
            }
            progress(Progress::Tick { since_round: begun.elapsed() });
            let stopped = stop.load(Ordering::Relaxed);
            let beyond = match plan::limit(&trials) {
                Limit::At { s, .. } => s * WITNESS,
                Limit::Between { high_s, .. } => high_s,
                Limit::Unknown | Limit::NoneBelow { .. } => f64::INFINITY,
            };
            let late = begun.elapsed().as_secs_f64() > beyond;
            waiting.retain(|t| *t < beyond && !stopped);
            for (idle_s, cancel) in &running {
                if stopped || (*idle_s > beyond && (late || matches!(plan::limit(&trials), Limit::Between { .. }))) {
                    cancel.store(true, Ordering::Relaxed);
                }
            }
        }
        trials
    }

    /// Sends `None` if it was cancelled.
    fn spawn(&self, idle_s: f64, cancel: Arc<AtomicBool>, tell: Sender<Option<Done>>) {
        let (target, protocol, keepalive_idle_s) = (self.target.clone(), self.protocol.clone(), self.keepalive);
        let failed = tell.clone();
        let spawned = std::thread::Builder::new().name("probe".into()).stack_size(512 * 1024).spawn(move || {
            let (fate, cookie) = one(&target, &protocol, idle_s, keepalive_idle_s, &cancel);
            let trial = fate.map(|fate| Trial { idle_s, keepalive_idle_s, fate, reset_origin: None });
            let _ = tell.send(trial.map(|trial| Done { trial, cookie }));
        });
        if spawned.is_err() {
            let _ = failed.send(None);
        }
    }
}

/// `None`: cancelled.
fn one(
    target: &Target,
    protocol: &Protocol,
    idle_s: f64,
    keepalive: Option<u32>,
    cancel: &AtomicBool,
) -> (Option<Fate>, Option<u64>) {
    let mut c = match Connection::open(target, protocol, keepalive) {
        Ok(c) => c,
        Err(e) => return (Some(Fate::Unusable { why: e.to_string() }), None),
    };
    let cookie = c.cookie();
    let fate = match c.idle(Duration::from_secs_f64(idle_s), cancel) {
        Ok(Some(fate)) => Some(fate),
        Ok(None) => Some(c.test()),
        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => None,
        Err(e) => Some(Fate::Unusable { why: e.to_string() }),
    };
    (fate, cookie)
}
