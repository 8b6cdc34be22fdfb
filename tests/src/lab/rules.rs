//! What the router does to packets: loses them, rejects them, translates them and forgets the translation.

use anyhow::Result;

use super::{Lab, Ns};

/// Which way the packets go that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

impl Way {
    fn matches(self, port: u16) -> String {
        match self {
            Way::ToServer => format!("iifname \"rc\" tcp dport {port}"),
            Way::ToClient => format!("oifname \"rc\" tcp sport {port}"),
        }
    }
}

/// What a NAT does with a packet of a connection that it has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Nothing answers: the client hangs.
    Drop,
    /// The router answers with a RST.
    Reject,
    /// A new mapping with another port: the server does not know it and answers with a RST.
    Remap,
}

/// A masquerading router (CGNAT) with a short memory.
#[derive(Debug, Clone, Copy)]
pub struct Nat {
    /// `nf_conntrack_tcp_timeout_established`, seconds.
    pub established_s: u32,
    pub invalid: Invalid,
}

/// Replaces all rules of the router: `body` goes into the forward hook of table `inet lab`.
fn load(router: &Ns, body: &str, more: &str) -> Result<()> {
    router.nft(&format!(
        "table inet lab\ndelete table inet lab\ntable inet lab {{\n counter hit {{ }}\n \
         chain forward {{ type filter hook forward priority 0; policy accept;\n{body}\n }}\n{more}\n}}\n"
    ))?;
    Ok(())
}

impl Lab {
    /// Forwards everything again.
    pub fn clear_rules(&self) {
        check(load(&self.router, "", ""));
    }

    /// Drops every packet of a port one way. [`Lab::hits`] counts them.
    pub fn drop(&self, way: Way, port: u16) {
        check(load(&self.router, &format!("{} counter name hit drop", way.matches(port)), ""));
    }

    /// Drops a random share of the packets of a port one way, per mille.
    pub fn lose(&self, way: Way, port: u16, per_mille: u32) {
        let rule = format!("{} numgen random mod 1000 < {per_mille} counter name hit drop", way.matches(port));
        check(load(&self.router, &rule, ""));
    }

    /// Answers every packet towards a port with a RST from the router.
    pub fn reject(&self, port: u16) {
        let rule = format!("{} counter name hit reject with tcp reset", Way::ToServer.matches(port));
        check(load(&self.router, &rule, ""));
    }

    /// Drops whatever is larger than `bytes` (IP length) towards a port and says nothing: an MTU black hole.
    pub fn drop_larger(&self, port: u16, bytes: u32) {
        let rule = format!("{} meta length > {bytes} counter name hit drop", Way::ToServer.matches(port));
        check(load(&self.router, &rule, ""));
    }

    /// Turns the router into a NAT that forgets idle connections.
    pub fn nat(&self, nat: Nat) {
        let set = |name: &str, value: u32| {
            check(self.router.sysctl(&format!("net.netfilter.nf_conntrack_tcp_{name}"), value));
        };
        set("timeout_established", nat.established_s);
        // Loose would pick a forgotten connection up again from the middle.
        set("loose", u32::from(nat.invalid == Invalid::Remap));
        let (rule, masquerade) = match nat.invalid {
            Invalid::Drop => ("ct state invalid counter name hit drop", "masquerade"),
            Invalid::Reject => {
                ("ct state invalid meta l4proto tcp counter name hit reject with tcp reset", "masquerade")
            }
            Invalid::Remap => ("ct state new counter name hit", "masquerade fully-random"),
        };
        let post = format!(
            " chain post {{ type nat hook postrouting priority srcnat;\n  oifname {{ \"rs\", \"rt\" }} {masquerade}\n }}"
        );
        check(load(&self.router, rule, &post));
    }

    /// Packets that the present rules have caught.
    pub fn hits(&self) -> u64 {
        check(self.router.nft_counter("hit"))
    }
}

fn check<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("cannot change the router's rules: {e:#}"))
}
