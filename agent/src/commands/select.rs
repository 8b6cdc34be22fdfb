//! Targets and destinations of an action, resolved once.

use anyhow::Result;

use crate::action::Selection;
use crate::attribute::Destination;
use crate::config::TargetSpec;
use crate::model::DestPrefix;

pub fn selection(targets: &TargetSpec, destinations: &[Destination]) -> Result<Selection> {
    Ok(Selection { pids: targets.pids.clone(), sockets: None, destinations: prefixes(destinations)? })
}

pub fn prefixes(destinations: &[Destination]) -> Result<Vec<DestPrefix>> {
    use std::net::ToSocketAddrs;
    let mut out = Vec::new();
    for d in destinations {
        match (d.prefix(), d.name()) {
            (Some(p), _) => out.push(p),
            (None, Some(name)) => {
                let addrs =
                    (&**name, 0u16).to_socket_addrs().map_err(|e| anyhow::anyhow!("cannot resolve {name}: {e}"))?;
                out.extend(addrs.map(|a| DestPrefix::host(a.ip(), d.port.unwrap_or(0))));
            }
            (None, None) => {}
        }
    }
    Ok(out)
}
