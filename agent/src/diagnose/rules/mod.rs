//! One cause per file.

mod app_waiting;
mod close_wait_leak;
mod connect_timeout;
mod idle_path_dead;
mod idle_path_reset;
mod injected_reset;
mod local_abort;
mod lossy_path;
mod mtu_black_hole;
mod no_keepalive;
mod path_outage;
mod peer_abort;
mod peer_gone;
mod peer_not_reading;
mod refused;
mod reset_wave;
mod stale_reuse;

use super::group::{AnyRule, Runner};

/// All rules. At most 32: the engine keeps one bit per rule and socket.
pub fn all() -> Vec<Box<dyn AnyRule>> {
    vec![
        Box::new(Runner::new(reset_wave::ResetWave)),
        Box::new(Runner::new(path_outage::PathOutage)),
        Box::new(Runner::new(idle_path_dead::IdlePathDead)),
        Box::new(Runner::new(mtu_black_hole::MtuBlackHole)),
        Box::new(Runner::new(peer_gone::PeerGone)),
        Box::new(Runner::new(idle_path_reset::IdlePathReset)),
        Box::new(Runner::new(stale_reuse::StaleReuse)),
        Box::new(Runner::new(injected_reset::InjectedReset)),
        Box::new(Runner::new(peer_abort::PeerAbort)),
        Box::new(Runner::new(connect_timeout::ConnectTimeout)),
        Box::new(Runner::new(refused::Refused)),
        Box::new(Runner::new(peer_not_reading::PeerNotReading)),
        Box::new(Runner::new(local_abort::LocalAbort)),
        Box::new(Runner::new(lossy_path::LossyPath)),
        Box::new(Runner::new(app_waiting::AppWaiting)),
        Box::new(Runner::new(close_wait_leak::CloseWaitLeak)),
        Box::new(Runner::new(no_keepalive::NoKeepalive)),
    ]
}

#[cfg(test)]
mod tests {
    use crate::model::Code;

    #[test]
    fn every_code_has_its_rule() {
        let mut have: Vec<Code> = super::all().iter().map(|r| r.code()).collect();
        have.sort();
        let mut want = Code::ALL.to_vec();
        want.sort();
        assert_eq!(have, want);
    }
}
