//! The same storm under other tracers: what they cost the load, and how many of its events they print.

use std::ffi::OsString;
use std::time::Duration;

use agent_tests::lab::Ns;
use agent_tests::workload::Workload;
use anyhow::Result;

use crate::run::{Program, agent};
use crate::table::{Row, Series};
use crate::{load, peers};

const ROUNDS: usize = 3;
const EACH: u64 = 50_000;
/// Changes of state of one refused connection: to SYN_SENT and back.
const CHANGES: u64 = 2;
/// For those that print nothing by which one could tell that they run: bcc compiles its program first.
const SETTLE: Duration = Duration::from_secs(3);

struct Tracer {
    name: &'static str,
    words: Vec<OsString>,
    mark: Option<&'static str>,
    /// Rounds per second of the load; percent of its changes of state that were printed.
    speed: Series,
    printed: Series,
    why_not: Option<String>,
}

impl Tracer {
    fn new(name: &'static str, words: Vec<OsString>, mark: Option<&'static str>) -> Self {
        Self { name, words, mark, speed: Series::default(), printed: Series::default(), why_not: None }
    }

    fn once(&mut self, ns: &Ns, storm: &Workload) -> Result<()> {
        let mut program = Program::start(ns, &self.words)?;
        match self.mark {
            Some(mark) => program.poke_until(mark, || {
                storm.call("storm 127.0.0.1:9 1 0");
            })?,
            None => {
                std::thread::sleep(SETTLE);
                program.still_runs()?;
            }
        }
        self.speed.push(speed(storm));
        std::thread::sleep(Duration::from_secs(1));
        let (_, finished) = program.interrupt()?;
        if let Some(mark) = self.mark {
            let lines = finished.lines_with(mark)?.min(EACH * CHANGES);
            self.printed.push(lines as f64 / (EACH * CHANGES) as f64 * 100.0);
        }
        Ok(())
    }

    fn text(&self, bare: &Series) -> String {
        if let Some(why) = &self.why_not {
            return format!("{} does not run here ({why})", self.name);
        }
        let printed = match self.mark {
            Some(_) => format!(", {:.1} % printed", self.printed.median()),
            None => String::new(),
        };
        format!("{} {:.2} x{printed}", self.name, self.speed.ratio_to(bare))
    }
}

fn speed(storm: &Workload) -> f64 {
    EACH as f64 / load::refused(storm, "127.0.0.1", EACH, 0)
}

pub fn others() -> Result<Vec<Row>> {
    let ns = Ns::new("bench")?;
    let storm = Workload::start(&ns);
    let ours = agent(&["watch", "--no-tui", "--all", "--dst", "127.0.0.1"]);
    let mut all = vec![Tracer::new("agent", ours, Some("\"type\":\"state\""))];
    all.extend(peers::tracers().into_iter().map(|(name, words, mark)| Tracer::new(name, words, mark)));
    let mut bare = Series::default();
    for _ in 0..ROUNDS {
        bare.push(speed(&storm));
        for tracer in all.iter_mut().filter(|t| t.why_not.is_none()) {
            if let Err(e) = tracer.once(&ns, &storm) {
                let text = format!("{e:#}");
                // The reason is in its last line; a table's cell has one.
                tracer.why_not = Some(text.lines().next_back().unwrap_or_default().replace('|', "/"));
            }
        }
    }
    let told: Vec<String> = all.iter().map(|t| t.text(&bare)).collect();
    Ok(vec![Row {
        figure: "refused connections at full speed under other tracers: the load's speed, changes of state printed",
        measured: format!("nothing attached {}; {}", bare.text("/s", 0), told.join("; ")),
        goal: "-",
        met: None,
    }])
}
