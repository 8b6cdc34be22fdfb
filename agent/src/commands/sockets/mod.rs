//! `agent sockets`: one look at every TCP socket of the targets.

mod causes;
mod collect;
mod dump;
mod lines;
mod owners;
mod packed;
mod scan;
mod table;
mod walk;
mod wrong;

use std::io::{self, BufWriter, Write};

use anyhow::Result;

use crate::attribute::{Names, targets};
use crate::cli::SocketsArgs;
use crate::config;
use crate::model::{Mono, WallClock};
use causes::Causes;
use collect::Collector;

/// Prints a table, or one JSON line per socket as it comes from the kernel; then the findings that one look allows.
pub fn run(args: SocketsArgs) -> Result<u8> {
    let destinations = config::destinations(&args.destination)?;
    let spec = config::targets(args.target, true)?;
    let cgroup = targets::check(&spec).map_err(anyhow::Error::msg)?;
    let now = Mono::now();
    let names = Names::resolved(destinations, now).map_err(anyhow::Error::msg)?;
    let mut collector = Collector::new(&spec, cgroup.as_deref(), names, now, !args.no_owners);
    let mut causes = Causes::new(now);
    let written = if args.json {
        let mut writer = lines::Writer::new(io::stdout(), WallClock::read(), now);
        let collected = collector.each(&mut |row| {
            causes.take(row);
            writer.write(row)
        });
        collected
            .and_then(|()| causes.findings().iter().try_for_each(|f| writer.finding(f)))
            .and_then(|()| writer.finish())
    } else {
        let mut rows = Vec::new();
        let collected = collector.each(&mut |row| {
            causes.take(row);
            rows.push(row.clone());
            Ok(())
        });
        let mut out = BufWriter::new(io::stdout().lock());
        collected
            .and_then(|()| table::print(&mut out, rows))
            .and_then(|()| table::causes(&mut out, &causes.findings()))
            .and_then(|()| out.flush())
    };
    match written {
        // The reader has seen enough (`| head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        other => other?,
    }
    for limit in collector.limits() {
        eprintln!("agent: {limit}");
    }
    Ok(0)
}
