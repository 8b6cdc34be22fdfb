//! The rules, and which of them have something to tell: each one's code and memory are touched only if it has.

use std::sync::Arc;

use super::asked::Asked;
use super::destination::DestinationId;
use super::group::{AnyRule, Scene};
use super::rule::Look;
use super::rules;
use super::thresholds::Thresholds;
use crate::model::{Finding, Mono, SocketId};
use crate::state::Socket;

/// All rules. A rule is named by its bit.
pub struct RuleSet {
    rules: Vec<Box<dyn AnyRule>>,
    pub asked: Asked,
    /// The rules that looked at a socket since the last [refresh](Self::refresh).
    looked: u32,
    /// When each wants to be told although nothing happens to its sockets.
    next: Vec<Option<Mono>>,
}

impl RuleSet {
    pub fn all() -> Self {
        let rules = rules::all();
        Self { asked: Asked::of(&rules), next: vec![None; rules.len()], rules, looked: 0 }
    }

    /// See [`AnyRule::examine`]; whether the socket is a case now, and when this rule wants to look again.
    #[inline]
    pub fn examine(
        &mut self,
        bit: u32,
        cx: &Look<'_>,
        s: &Socket,
        dest: DestinationId,
        had: bool,
        shed: &mut Vec<SocketId>,
    ) -> (bool, Option<Mono>) {
        self.looked |= bit;
        let rule = &mut self.rules[bit.trailing_zeros() as usize];
        (rule.examine(cx, s, dest, had, shed), rule.due(cx, s))
    }

    /// See [`AnyRule::gone`].
    pub fn gone(&mut self, bit: u32, now: Mono, id: SocketId, t: &Thresholds) -> Option<Mono> {
        self.looked |= bit;
        self.rules[bit.trailing_zeros() as usize].gone(now, id, t)
    }

    /// Tells again what changed; see [`AnyRule::refresh`].
    pub fn refresh(&mut self, scene: &Scene<'_>, next_id: &mut u64, out: &mut Vec<Finding>) {
        let looked = std::mem::take(&mut self.looked);
        for (n, (rule, next)) in self.rules.iter_mut().zip(&mut self.next).enumerate() {
            if looked >> n & 1 == 1 || next.is_some_and(|t| t <= scene.now) {
                *next = rule.refresh(scene, next_id, out);
            }
        }
    }

    /// When some finding wants to be told although nothing happens to its sockets.
    pub fn next_telling(&self) -> Option<Mono> {
        self.next.iter().flatten().min().copied()
    }

    pub fn open(&self) -> Vec<Arc<Finding>> {
        let mut all = Vec::new();
        for rule in &self.rules {
            rule.open(&mut all);
        }
        all
    }
}
