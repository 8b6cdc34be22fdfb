//! Which rules a socket concerns, known before any is asked.

use super::group::AnyRule;
use super::reset::ResetVerdict;
use super::rule::Concern;
use crate::model::Code;
use crate::state::Socket;

/// Which rules are asked of a socket: one bit each.
#[derive(Default)]
pub struct Asked {
    any: u32,
    open: u32,
    stuck: u32,
    /// By the code of the reset's verdict.
    reset: [u32; Code::ALL.len()],
}

impl Asked {
    pub fn of(rules: &[Box<dyn AnyRule>]) -> Self {
        let mut this = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            let bit = 1 << i;
            match rule.concern() {
                Concern::Any => this.any |= bit,
                Concern::Open => this.open |= bit,
                Concern::Stuck => this.stuck |= bit,
                Concern::Reset => {
                    for code in Code::ALL.iter().filter(|c| rule.judges(**c)) {
                        this.reset[*code as usize] |= bit;
                    }
                }
            }
        }
        this
    }

    /// The rules that have something to ask of this socket.
    pub fn about(&self, s: &Socket, reset: Option<&ResetVerdict>, is_stuck: bool) -> u32 {
        self.any
            | if s.is_closed() { 0 } else { self.open }
            | if is_stuck { self.stuck } else { 0 }
            | reset.map_or(0, |v| self.reset[v.code as usize])
    }
}
