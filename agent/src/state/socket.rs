//! What is known of one socket.

use std::sync::Arc;
use std::time::Duration;

use super::history::{Happening, Timeline};
use crate::memory::Reused;
use crate::model::{Counters, Direction, Family, Flow, Keepalive, Mono, Owners, Reset, SocketId, TcpMetrics, TcpState};

#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    pub id: SocketId,
    pub family: Option<Family>,
    pub flow: Option<Flow>,
    pub remote_name: Option<Arc<str>>,
    pub netns: Option<u32>,
    /// Present owners, or the last ones once all have exited.
    pub owners: Owners,
    /// All owners have exited.
    pub orphaned: bool,
    pub direction: Option<Direction>,
    pub state: Option<TcpState>,
    pub state_since: Option<Mono>,
    pub opened: Option<Mono>,
    pub first_seen: Mono,
    pub keepalive: Option<Keepalive>,
    pub counters: Counters,
    pub tcp: TcpMetrics,
    /// When `tcp` was sampled.
    pub tcp_at: Option<Mono>,
    /// When the kernel gives up on the data in flight, if nothing is acknowledged.
    pub gives_up_at: Option<Mono>,
    pub last_reset: Reused<Reset>,
    pub last_reset_at: Option<Mono>,
    /// When it reached CLOSE or was destroyed: a tombstone from then on.
    pub closed_at: Option<Mono>,
    pub mptcp: Option<bool>,
    pub activity: Activity,
    /// Retransmitted segments per slot of [`Socket::SPARK_SLOT`], newest last.
    pub spark: [u16; 8],
    pub spark_slot: u64,
    pub history: Timeline,
    /// Changes whenever anything above does: a view or rule can skip what it has seen.
    pub revision: u64,
}

/// When the connection was last alive, and what is unanswered since: from exact details where an event brought
/// them, else from samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Last time anything came from the peer (data or ACK).
    pub last_heard: Option<Mono>,
    pub last_data_received: Option<Mono>,
    /// Last time the application's data was sent (not a retransmit, as far as can be told).
    pub last_sent: Option<Mono>,
    /// When the data that is now unanswered was first sent.
    pub unanswered_since: Option<Mono>,
    /// How long the connection had been silent before that send.
    pub idle_before: Option<Duration>,
    /// RTO retransmits (timer) since `last_heard`.
    pub rto_since_heard: u32,
    /// When the retransmission timer last fired.
    pub last_rto: Option<Mono>,
    /// Retransmitted segments of any kind since `last_heard`.
    pub retransmits_since_heard: u32,
    /// FIN received: when the state became CLOSE_WAIT (or LAST_ACK, CLOSING, TIME_WAIT by the peer's FIN).
    pub fin_received: Option<Mono>,
    /// The FIN came before the agent: `fin_received` is then the latest time at which it may have come.
    pub fin_unseen: bool,
    /// How long the connection had been idle when that FIN came; `None` for one that nobody saw.
    pub idle_at_fin: Option<Duration>,
    pub syn_retransmits: u32,
    /// Retransmits that a sample counted before their events were read.
    pub counted_ahead: u32,
    /// A send after an idle gap that is not answered yet: when, and how long the gap was.
    pub pending_gap: Option<(Mono, Duration)>,
    /// The last send after an idle gap that was answered: when, and a lower bound of the gap.
    pub survived_gap: Option<(Mono, Duration)>,
    /// Longest idle time after which data still got through, this socket's life.
    pub longest_survived_idle: Option<Duration>,
    /// When the handshake ended, if the agent saw it.
    pub established_at: Option<Mono>,
    /// A request was out and unanswered when the FIN came.
    pub outstanding_at_fin: bool,
    /// `bytes_sent` when the FIN came, as last sampled.
    pub bytes_sent_at_fin: Option<u64>,
    /// When this end closed (FIN_WAIT1 or LAST_ACK).
    pub app_closed_at: Option<Mono>,
    /// When keepalive was last seen to change; `None` = it is as it was at first sight.
    pub keepalive_changed_at: Option<Mono>,
    /// When the agent itself destroyed the socket.
    pub closed_by_agent: Option<Mono>,
    /// Retransmits of full-size and of smaller segments since the last progress; tail-loss probes do not count.
    pub full_retransmits: u32,
    pub small_retransmits: u32,
    /// A full-size segment that was retransmitted: `bytes_acked` before it, and the MSS it had.
    pub full_out: Option<(u64, u32)>,
    /// The largest MSS of which such a segment was acknowledged: so large a packet gets through.
    pub full_passed: Option<u32>,
    /// An ACK arrived since the last progress without acknowledging the oldest data: what is behind it got through.
    pub acked_beside: bool,
    /// Bytes acknowledged at the last progress.
    pub acked_mark: Option<u64>,
    /// Retransmitted segments, and timeouts among them, whose data is not acknowledged yet.
    pub unsettled_retransmits: u32,
    pub unsettled_rtos: u32,
    /// After an interruption: what had been sent by then, in `bytes_acked` counts. Up to there the kernel sends
    /// everything again, which is no new loss.
    pub recovery_mark: Option<u64>,
    /// Retransmitted segments that were acknowledged soon after: loss on a path that works.
    pub progress_retransmits: u64,
    /// The first and the latest of those losses.
    pub first_loss: Option<Mono>,
    pub last_loss: Option<Mono>,
    /// `data_segments_sent` when the agent first looked: what was sent before says nothing of losses seen since.
    pub data_segments_at_first: Option<u32>,
    /// Since when the peer's receive window has been zero.
    pub zero_window_since: Option<Mono>,
    /// `bytes_acked` at the last look at the window.
    pub zero_window_acked: Option<u64>,
    /// At most this many bytes were sent since data was last received; `None` = not known.
    pub sent_since_received: Option<u64>,
    /// `bytes_sent` at the last sample whose newest data was the peer's.
    pub sent_mark: Option<u64>,
}

impl Socket {
    /// Width of a sparkline slot: eight of them show the first nine retransmits of a back-off from 200 ms.
    pub const SPARK_SLOT: Duration = Duration::from_secs(10);

    pub fn new(id: SocketId, at: Mono) -> Self {
        Self {
            id,
            family: None,
            flow: None,
            remote_name: None,
            netns: None,
            owners: Owners::default(),
            orphaned: false,
            direction: None,
            state: None,
            state_since: None,
            opened: None,
            first_seen: at,
            keepalive: None,
            counters: Counters::default(),
            tcp: TcpMetrics::default(),
            tcp_at: None,
            gives_up_at: None,
            last_reset: Reused::default(),
            last_reset_at: None,
            closed_at: None,
            mptcp: None,
            activity: Activity::default(),
            spark: [0; 8],
            spark_slot: 0,
            history: Timeline::default(),
            revision: 0,
        }
    }

    /// Makes it the record of another socket, with the memory it has: [`Self::new`] in place, for it is long to move.
    pub(super) fn begin(&mut self, new_id: SocketId, at: Mono) {
        let Self {
            id,
            family,
            flow,
            remote_name,
            netns,
            owners,
            orphaned,
            direction,
            state,
            state_since,
            opened,
            first_seen,
            keepalive,
            counters,
            tcp,
            tcp_at,
            gives_up_at,
            last_reset,
            last_reset_at,
            closed_at,
            mptcp,
            activity,
            spark,
            spark_slot,
            history,
            revision,
        } = self;
        *id = new_id;
        *family = None;
        *flow = None;
        *remote_name = None;
        *netns = None;
        *owners = Owners::default();
        *orphaned = false;
        *direction = None;
        *state = None;
        *state_since = None;
        *opened = None;
        *first_seen = at;
        *keepalive = None;
        *counters = Counters::default();
        *tcp = TcpMetrics::default();
        *tcp_at = None;
        *gives_up_at = None;
        last_reset.clear();
        *last_reset_at = None;
        *closed_at = None;
        *mptcp = None;
        *activity = Activity::default();
        *spark = [0; 8];
        *spark_slot = 0;
        history.clear();
        *revision = 0;
    }

    /// Name if there is one, else address; with port. `?` before the remote end is known.
    pub fn destination(&self) -> String {
        match (&self.remote_name, &self.flow) {
            (Some(name), Some(flow)) => format!("{name}:{}", flow.remote.port()),
            (None, Some(flow)) => flow.remote.to_string(),
            _ => "?".into(),
        }
    }

    /// Time since anything was sent or received; `None` while nothing was seen.
    pub fn idle(&self, now: Mono) -> Option<Duration> {
        let last = self.activity.last_heard.max(self.activity.last_sent)?;
        Some(now.since(last))
    }

    /// Time left until the kernel gives up; `None` while nothing is unacknowledged.
    pub fn gives_up_in(&self, now: Mono) -> Option<Duration> {
        self.gives_up_at.map(|t| t.since(now))
    }

    /// Some owner's pid: the lowest, so that it is stable.
    pub fn pid(&self) -> Option<u32> {
        self.owners.iter().map(|o| o.pid).min()
    }

    pub fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    #[inline(always)]
    pub(super) fn note(&mut self, at: Mono, what: Happening) {
        self.history.note(at, what);
    }

    /// Moves the sparkline on to the slot of `now`.
    pub(super) fn roll_spark(&mut self, now: Mono) {
        let slot = now.0 / Self::SPARK_SLOT.as_nanos() as u64;
        let steps = slot.saturating_sub(self.spark_slot).min(8) as usize;
        if steps > 0 {
            self.spark.rotate_left(steps % 8);
            let keep = 8 - steps;
            self.spark[keep..].fill(0);
            if steps == 8 {
                self.spark = [0; 8];
            }
            self.spark_slot = slot;
        }
    }
}
