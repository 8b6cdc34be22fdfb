//! The story that the screen tests show: an agent's client behind a NAT that forgot its idle connections.

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;

use crate::model::*;
use crate::state::{Snapshot, Table, TableConfig};
use crate::view::tui::render;
use crate::view::tui::state::{Mode, UiOptions, UiState};
use crate::view::tui::theme::Theme;

/// The present of every test screen: one hour after the monotonic clock's zero.
pub const NOW: Mono = Mono(3_600_000_000_000);

pub fn ago(seconds: f64) -> Mono {
    NOW.minus(Duration::from_secs_f64(seconds))
}

/// The present is 12:41:05 in whichever time zone the test runs.
fn clock() -> WallClock {
    let here = jiff::civil::date(2026, 11, 23).at(12, 41, 5, 0).to_zoned(jiff::tz::TimeZone::system());
    WallClock::new(here.expect("a time").timestamp().as_nanosecond(), NOW)
}

pub fn session() -> Session {
    Session {
        agent_version: "0.1.0".into(),
        kernel_release: "6.18.5".into(),
        arch: "x86_64".into(),
        command: vec!["agent".into(), "watch".into()],
        targets: Targets {
            pids: vec![4182],
            tree: true,
            destinations: vec!["api.anthropic.com:443".into()],
            ..Targets::default()
        },
        hooks: ["tcp_retransmit_skb", "tcp_receive_reset", "tcp_send_reset", "inet_sock_set_state"]
            .iter()
            .map(|name| hook(name, "tp_btf", true))
            .chain([hook("ingress", "cgroup_skb", true)])
            .collect(),
        sysctl: [("tcp_retries2".to_string(), Some(15)), ("tcp_rto_max_ms".to_string(), None)].into(),
        limits: Vec::new(),
    }
}

pub fn hook(name: &str, backend: &str, attached: bool) -> Hook {
    let why_not = (!attached).then(|| "this kernel has no such tracepoint".to_string());
    Hook { name: name.into(), backend: backend.into(), attached, why_not }
}

/// A table under construction.
pub struct Story {
    pub table: Table,
    pub findings: Vec<Arc<Finding>>,
}

impl Story {
    pub fn new(session: Session) -> Self {
        let mut s = Self { table: Table::new(TableConfig::default()), findings: Vec::new() };
        s.event(ago(600.0), EventKind::Session(Box::new(session)));
        s
    }

    pub fn event(&mut self, at: Mono, kind: EventKind) {
        self.table.apply(&Event { at, kind });
    }

    /// An established connection of `claude` to the API.
    pub fn open(&mut self, port: u16, keepalive: Option<Keepalive>) -> SocketId {
        self.open_to(port, "160.79.104.10:443", Some("api.anthropic.com"), keepalive)
    }

    pub fn open_to(&mut self, port: u16, remote: &str, name: Option<&str>, keepalive: Option<Keepalive>) -> SocketId {
        let id = SocketId(0x1000 + u64::from(port));
        let update = SocketUpdate {
            id: Some(id),
            family: Some(Family::V4),
            flow: Some(Flow {
                local: format!("192.168.1.20:{port}").parse().expect("address"),
                remote: remote.parse().expect("address"),
            }),
            remote_name: name.map(Into::into),
            netns: Some(4_026_531_840),
            owners: Some(
                [Owner { pid: 4182, comm: "claude".into(), fd: Some(i32::from(port % 40) + 10), program: None }].into(),
            ),
            direction: Some(Direction::Outgoing),
            state: Some(TcpState::Established),
            opened: Some(ago(580.0)),
            keepalive,
            ..SocketUpdate::default()
        };
        self.event(ago(580.0), EventKind::Socket(Box::new(update)));
        id
    }

    /// A look at `at`: last data `idle` seconds before, `rtt` ms.
    pub fn sample(&mut self, id: SocketId, at: Mono, idle: f64, rtt: u64, sent: u64) {
        let ms = (idle * 1e3) as u64;
        let tcp = TcpMetrics {
            rtt: Some(Duration::from_millis(rtt)),
            rto: Some(Duration::from_millis(rtt + 200)),
            backoff: Some(0),
            send_queue_bytes: Some(0),
            unacked_bytes: Some(0),
            last_sent_ms: Some(ms),
            last_received_ms: Some(ms),
            last_ack_ms: Some(ms),
            bytes_sent: Some(sent),
            bytes_received: Some(18 << 10),
            ..TcpMetrics::default()
        };
        let sample = Sample { socket: id, state: TcpState::Established, tcp, gives_up_in: None };
        self.event(at, EventKind::Sample(Box::new(sample)));
    }

    /// `n` RTO retransmits since `since` seconds ago; the kernel gives up `left` seconds from now.
    pub fn stuck(&mut self, id: SocketId, since: f64, n: u32, bytes: u64, left: f64) {
        let mut at = since - 0.22;
        for i in 0..n {
            let detail = TcpDetail {
                rto: Some(Duration::from_millis(220 << i.min(9))),
                backoff: Some(i as u8),
                unacked_bytes: Some(bytes),
                send_queue_bytes: Some(bytes),
                ..TcpDetail::default()
            };
            let r = Retransmit {
                socket: Some(id),
                flow: None,
                netns: None,
                pid: Some(4182),
                state: Some(TcpState::Established),
                how: RetransmitKind::Rto,
                segments: 1,
                detail,
                gives_up_in: Some(Duration::from_secs_f64(left + at)),
            };
            self.event(ago(at), EventKind::Retransmit(Box::new(r)));
            at = (at - f64::from(220 << i.min(9)) / 1e3 * 2.0).max(0.5);
        }
    }

    pub fn reset(&mut self, id: SocketId, at: Mono, origin: ResetOrigin) {
        let r = Reset {
            socket: Some(id),
            flow: None,
            netns: None,
            pid: Some(4182),
            direction: ResetDirection::Received,
            origin,
            origin_why: "TTL 64 where the flow's is 52".into(),
            state: Some(TcpState::Established),
            idle_before: Some(Duration::from_secs(291)),
            kernel_reason: None,
            packet: PacketFacts {
                ttl: Some(64),
                flow_ttl: Some(52),
                seq_expected: Some(true),
                ..PacketFacts::default()
            },
            detail: TcpDetail::default(),
        };
        self.event(at, EventKind::Reset(Box::new(r)));
        let change = StateChange {
            socket: Some(id),
            flow: None,
            netns: None,
            family: None,
            from: TcpState::Established,
            to: TcpState::Close,
            pid: None,
            last: false,
        };
        self.event(at, EventKind::State(change));
    }

    pub fn find(&mut self, finding: Finding) {
        self.event(finding.opened, EventKind::Finding(Box::new(finding.clone())));
        self.findings.push(Arc::new(finding));
    }

    pub fn snapshot(&self) -> Snapshot {
        self.table.snapshot(NOW, clock(), self.findings.clone())
    }
}

pub const OFF: Option<Keepalive> =
    Some(Keepalive { enabled: false, idle_s: 7200, interval_s: 75, count: 9, user_timeout_ms: 0, set_by: None });
pub const BY_AGENT: Option<Keepalive> = Some(Keepalive {
    enabled: true,
    idle_s: 30,
    interval_s: 10,
    count: 3,
    user_timeout_ms: 0,
    set_by: Some(SetBy::Agent),
});
const BY_APPLICATION: Option<Keepalive> = Some(Keepalive {
    enabled: true,
    idle_s: 60,
    interval_s: 75,
    count: 9,
    user_timeout_ms: 0,
    set_by: Some(SetBy::Application),
});

/// Six healthy connections and nothing to say about them.
pub fn healthy() -> Story {
    let mut s = Story::new(session());
    for (i, port) in (53072..53078).enumerate() {
        let id = s.open(port, if i % 2 == 0 { BY_APPLICATION } else { BY_AGENT });
        s.sample(id, ago(1.0), 3.0 * i as f64, 29 + i as u64, 4096 * (i as u64 + 1));
    }
    s
}

/// Two sockets hang after an idle gap, one was reset by a middlebox, three live.
pub fn trouble() -> Story {
    let mut s = Story::new(session());
    let quick = s.open(53102, BY_AGENT);
    s.sample(quick, ago(1.0), 4.0, 29, 9000);
    let reset = s.open(52988, OFF);
    s.sample(reset, ago(422.0), 0.0, 31, 5000);
    s.reset(reset, ago(130.0), ResetOrigin::Middlebox);
    let first = s.open(53072, OFF);
    let second = s.open(53080, OFF);
    for (id, idle, n, bytes, left) in [(second, 298.0, 7, 12 << 10, 842.0), (first, 302.0, 8, 94 << 10, 818.0)] {
        s.sample(id, ago(52.0 + idle), 0.0, 31, 5000);
        s.stuck(id, 52.0, n, bytes, left);
    }
    let idle = s.open_to(40110, "[2001:db8::7]:8443", None, OFF);
    s.sample(idle, ago(60.0), 40.0, 112, 300);
    let fresh = s.open_to(40112, "10.1.2.3:80", Some("files.internal.example.org"), None);
    s.sample(fresh, ago(0.5), 0.2, 1, 1 << 20);
    let owners = Some([Owner { pid: 4190, comm: "rg".into(), fd: Some(5), program: None }].into());
    s.event(ago(0.4), EventKind::Socket(Box::new(SocketUpdate { id: Some(fresh), owners, ..Default::default() })));
    let evidence = |at, text: &str| Evidence { at, text: text.into() };
    s.find(Finding {
        id: 1,
        code: Code::IdlePathDead,
        confidence: Confidence::Likely,
        status: FindingStatus::Open,
        opened: ago(50.0),
        sockets: vec![first, second],
        pid: Some(4182),
        destination: Some("api.anthropic.com:443".into()),
        summary:
            "2 connections to api.anthropic.com:443 hang: the path forgot them after at most 4:58 of idleness; 15 \
                  retransmits, backoff 7, 106 KiB stuck; the first gives up in 13:38; a client that tries them one \
                  after another loses 27:40."
                .into(),
        evidence: vec![
            evidence(ago(354.0), "last data received, 31 ms RTT, everything acknowledged"),
            evidence(ago(52.0), "94 KiB sent after 5:02 idle; 8 RTO retransmits since, backoff 7, no ACK"),
            evidence(ago(1.0), "socket 53102 to the same address still gets ACKs"),
        ],
        rivals: vec!["the peer is down: another socket to the same address still gets ACKs".into()],
        advice: vec![
            "Switch keepalive on with an idle time below 4:58: agent keepalive --pid 4182 --idle 30s.".into(),
            "For the sockets that hang now keepalive comes too late: close them, so that the client retries.".into(),
        ],
        gives_up_in_s: Some(868.0),
        numbers: Default::default(),
    });
    s.find(Finding {
        id: 2,
        code: Code::NoKeepalive,
        confidence: Confidence::Certain,
        status: FindingStatus::Open,
        opened: ago(40.0),
        sockets: vec![first, second, idle],
        pid: Some(4182),
        destination: Some("api.anthropic.com:443".into()),
        summary: "3 of 5 sockets would not survive this path.".into(),
        evidence: vec![evidence(ago(40.0), "SO_KEEPALIVE is off on 3 sockets")],
        rivals: Vec::new(),
        advice: vec!["Force keepalive: K here, or agent keepalive --pid 4182 --idle 30s.".into()],
        gives_up_in_s: None,
        numbers: Default::default(),
    });
    s
}

pub fn ui() -> UiState {
    UiState::new(UiOptions {
        mode: Mode::Live,
        theme: Theme::new(true),
        target_names: [(4182, "claude".to_string())].into(),
        ..UiOptions::default()
    })
}

pub fn key(c: KeyCode) -> Input {
    Input::Key(KeyEvent::new(c, KeyModifiers::NONE))
}

pub fn press(ui: &mut UiState, snapshot: &Snapshot, keys: &[KeyCode]) {
    for k in keys {
        ui.handle(&key(*k), snapshot);
    }
}

/// Draws as the real screen would, and returns the text, without blanks at line ends.
pub fn screen(ui: &mut UiState, snapshot: &Snapshot, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test terminal");
    let shown = ui.paused.clone();
    let shown = shown.as_deref().unwrap_or(snapshot);
    ui.prepare(shown, Rect::new(0, 0, width, height));
    terminal.draw(|f| render::draw(ui, shown, f)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut x = 0;
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character takes the next cell too.
            x += crate::view::text::width(symbol).max(1) as u16;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
