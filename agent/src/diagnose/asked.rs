//! Which rules a socket concerns, known before any is asked.

use super::group::AnyRule;
use super::reset::ResetVerdict;
use super::rule::Concern;
use crate::model::Code;
use crate::state::Socket;

/// Which rules are asked of a socket: one bit each.
#[derive(Default)]
pub struct Asked {
    open: u32,
    stuck: u32,
    syn_again: u32,
    loss: u32,
    probed: u32,
    /// By the code of the reset's verdict.
    reset: [u32; Code::ALL.len()],
}

impl Asked {
    pub fn of(rules: &[Box<dyn AnyRule>]) -> Self {
        let mut this = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            let bit = 1 << i;
            match rule.concern() {
                Concern::Open => this.open |= bit,
                Concern::Stuck => this.stuck |= bit,
                Concern::SynAgain => this.syn_again |= bit,
                Concern::Loss => this.loss |= bit,
                Concern::Probed => this.probed |= bit,
                Concern::Reset => {}
            }
            if matches!(rule.concern(), Concern::Reset | Concern::Probed) {
                for code in Code::ALL.iter().filter(|c| rule.judges(**c)) {
                    this.reset[*code as usize] |= bit;
                }
            }
        }
        this
    }

    /// The rules that have something to ask of this socket.
    pub fn about(&self, s: &Socket, reset: Option<&ResetVerdict>, is_stuck: bool) -> u32 {
        let all = [
            (!s.is_closed(), self.open),
            (is_stuck, self.stuck),
            (s.activity.syn_retransmits > 0, self.syn_again),
            (s.activity.last_loss.is_some(), self.loss),
            (s.tcp.probes.is_some_and(|n| n > 0), self.probed),
        ];
        let shown = all.iter().fold(0, |bits, (shows, rules)| if *shows { bits | rules } else { bits });
        shown | reset.map_or(0, |v| self.reset[v.code as usize])
    }
}
