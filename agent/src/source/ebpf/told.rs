//! Events that were read from the ring, by kind. The kernel side counts only those that found no room in it: an addition
//! for each event there costs the traffic that is watched, here it costs next to nothing.

use agent_common::{Record, kind};

#[derive(Debug, Default)]
pub struct Told([u64; kind::COUNT]);

impl Told {
    pub fn add(&mut self, record: &Record) {
        if let Some(n) = self.0.get_mut(usize::from(record.kind)) {
            *n += 1;
        }
    }

    /// 0 for what is no kind.
    pub fn of(&self, kind: u8) -> u64 {
        self.0.get(usize::from(kind)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_apart_and_an_unknown_one_not_at_all() {
        let mut told = Told::default();
        for kind in [kind::STATE, kind::STATE, kind::GUARD, 10, 255] {
            told.add(&Record { kind, ..Record::default() });
        }
        let all: Vec<u64> = (0..=u8::MAX).map(|k| told.of(k)).filter(|n| *n > 0).collect();
        assert_eq!((told.of(kind::STATE), told.of(kind::GUARD)), (2, 1));
        assert_eq!(all, [2, 1]);
    }
}
