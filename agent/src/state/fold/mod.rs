//! How each kind of event changes a socket.

mod end;
mod heard;
mod lifecycle;
mod retransmit;
mod sample;

pub(super) use end::{action, reset};
pub(super) use lifecycle::{owner_exit, state, update};
pub(super) use retransmit::retransmit;
pub(super) use sample::sample;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Mono, Sample, SocketUpdate, TcpState};
    use crate::model::{SocketId, TcpMetrics};
    use crate::state::Socket;

    #[test]
    fn a_socket_that_was_open_before_keeps_its_idle_time() {
        let found = Mono::from_secs_f64(1_000.0);
        for state in [TcpState::Established, TcpState::CloseWait] {
            let mut s = Socket::new(SocketId(1), found);
            update(&mut s, found, &mut SocketUpdate { state: Some(state), ..SocketUpdate::default() });
            let tcp = TcpMetrics {
                last_sent_ms: Some(302_000),
                last_received_ms: Some(301_000),
                last_ack_ms: Some(301_500),
                bytes_received: Some(5),
                ..TcpMetrics::default()
            };
            sample(&mut s, found, &Sample { socket: SocketId(1), state, tcp, gives_up_in: None });
            assert_eq!(s.idle(found), Some(Duration::from_secs(301)), "{state}");
        }
    }
}
