//! Against the running kernel: the test process and its children are the targets, loopback sockets theirs.

use std::net::{TcpListener, TcpStream};

use super::enrich::idle_before;
use super::*;
use crate::model::{SocketUpdate, TcpDetail};

fn targets(pids: &[u32]) -> TargetSpec {
    TargetSpec { pids: pids.to_vec(), ..TargetSpec::default() }
}

fn start(spec: &TargetSpec, dst: &[&str]) -> (Attribution, Vec<Event>) {
    let names = Names::new(dst.iter().map(|d| d.parse().unwrap()).collect());
    Attribution::new(spec, names, 10_000, Mono::now()).unwrap()
}

fn id(s: &TcpStream) -> SocketId {
    SocketId(rustix::net::sockopt::socket_cookie(s).unwrap())
}

fn updates(events: &[Event], id: SocketId) -> Vec<&SocketUpdate> {
    events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::Socket(u) if u.id == Some(id) => Some(&**u),
            _ => None,
        })
        .collect()
}

fn later(s: f64) -> Mono {
    Mono::now().plus(std::time::Duration::from_secs_f64(s))
}

#[test]
fn sockets_that_were_open_before_are_found_with_owner_direction_and_keepalive() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let made = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let accepted = l.accept().unwrap().0;
    rustix::net::sockopt::set_socket_keepalive(&made, true).unwrap();
    let me = std::process::id();
    let (a, events) = start(&targets(&[me]), &[]);
    let u = updates(&events, id(&made))[0];
    let owner = &u.owners.as_ref().unwrap()[0];
    use std::os::fd::AsRawFd;
    assert_eq!((owner.pid, owner.fd), (me, Some(made.as_raw_fd())));
    assert_eq!(u.direction, Some(crate::model::Direction::Outgoing));
    assert!(u.keepalive.is_some_and(|k| k.enabled && k.idle_s > 0));
    let own = crate::source::diag::NetNs::own().ok().map(|n| n.inode());
    assert_eq!(u.netns, own);
    let u = updates(&events, id(&accepted))[0];
    assert_eq!(u.direction, Some(crate::model::Direction::Incoming));
    assert!(u.keepalive.is_some_and(|k| !k.enabled));
    let listener = (own.unwrap(), l.local_addr().unwrap().port());
    assert!(a.listeners().any(|x| x == listener));
    assert!(a.limits().is_empty(), "{:?}", a.limits());
}

#[test]
fn a_socket_opened_later_is_found_by_the_event_that_names_it() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut a, _) = start(&targets(&[std::process::id()]), &[]);
    let s = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let reset = crate::model::Reset {
        socket: Some(id(&s)),
        flow: Some(crate::model::Flow { local: s.local_addr().unwrap(), remote: s.peer_addr().unwrap() }),
        netns: None,
        // What the CPU happened to run.
        pid: Some(1),
        direction: crate::model::ResetDirection::Sent,
        origin: crate::model::ResetOrigin::Unknown,
        origin_why: "".into(),
        state: None,
        idle_before: None,
        kernel_reason: None,
        packet: Default::default(),
        detail: Default::default(),
    };
    let mut out = Vec::new();
    let mut event = Event { at: later(1.0), kind: EventKind::Reset(Box::new(reset.clone())) };
    assert!(a.enrich(&mut event, &mut out));
    assert_eq!(updates(&out, id(&s)).len(), 1, "described first");
    let EventKind::Reset(r) = &event.kind else { panic!("{event:?}") };
    assert_eq!((r.pid, r.origin), (Some(std::process::id()), crate::model::ResetOrigin::Local));

    let strange = crate::model::Reset { socket: Some(SocketId(u64::MAX)), flow: None, ..reset };
    out.clear();
    let mut event = Event { at: later(3.0), kind: EventKind::Reset(Box::new(strange)) };
    assert!(!a.enrich(&mut event, &mut out));
    assert!(out.is_empty(), "nobody's socket causes no line: {out:?}");
}

#[test]
fn a_process_that_has_ended_is_told_by_its_number() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let pid = child.id();
    for all in [true, false] {
        let (mut a, _) = start(&TargetSpec { all, ..targets(&[std::process::id()]) }, &[]);
        let change = crate::model::StateChange {
            socket: Some(SocketId(u64::MAX)),
            flow: Some(crate::model::Flow {
                local: "192.0.2.1:0".parse().unwrap(),
                remote: "192.0.2.2:443".parse().unwrap(),
            }),
            netns: None,
            family: Some(crate::model::Family::V4),
            from: crate::model::TcpState::Close,
            to: crate::model::TcpState::SynSent,
            pid: Some(pid),
            last: false,
        };
        let mut out = Vec::new();
        let ours = a.enrich(&mut Event { at: later(1.0), kind: EventKind::State(change) }, &mut out);
        assert_eq!(ours, all, "only who watches everything asks for it");
        let owners: Vec<_> = updates(&out, SocketId(u64::MAX)).iter().filter_map(|u| u.owners.clone()).collect();
        let told: Vec<_> = owners.iter().flat_map(|o| o.iter().map(|o| (o.pid, &*o.comm))).collect();
        assert_eq!(told, if all { vec![(pid, "?")] } else { vec![] });
    }
}

#[test]
fn other_destinations_are_left_out() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = TcpListener::bind("127.0.0.2:0").unwrap();
    let other = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let meant = TcpStream::connect(wanted.local_addr().unwrap()).unwrap();
    let dst = wanted.local_addr().unwrap().to_string();
    let (_, events) = start(&targets(&[std::process::id()]), &[&dst]);
    assert_eq!(updates(&events, id(&meant)).len(), 1);
    assert!(updates(&events, id(&other)).is_empty());
}

#[test]
fn a_changed_option_is_noticed_when_asked_for() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let s = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let (mut a, _) = start(&targets(&[std::process::id()]), &[]);
    rustix::net::sockopt::set_socket_keepalive(&s, true).unwrap();
    a.reread_keepalive([id(&s)]);
    let events = a.refresh(later(0.0));
    assert!(updates(&events, id(&s))[0].keepalive.unwrap().enabled);
    a.reread_keepalive([id(&s)]);
    assert!(updates(&a.refresh(later(0.0)), id(&s)).is_empty(), "no news, no event");
}

#[test]
fn samples_come_and_the_end_is_told_once() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let s = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let peer = l.accept().unwrap().0;
    let (mut a, _) = start(&targets(&[std::process::id()]), &[]);
    let (socket, peer_id) = (id(&s), id(&peer));
    let sampled = a.sample(later(1.0)).into_iter().any(|e| match e.kind {
        EventKind::Sample(x) => x.socket == socket && x.gives_up_in.is_none() && x.tcp.rto.is_some(),
        _ => false,
    });
    assert!(sampled);
    drop(peer);
    drop(s);
    let ends = |events: Vec<Event>| {
        let gone = |e: &Event| matches!(&e.kind, EventKind::Socket(u) if u.destroyed && u.id == Some(peer_id));
        events.iter().filter(|e| gone(e)).count()
    };
    // The first closer leaves a TIME_WAIT behind, which is no socket.
    // Tests beside this one look at this process too and hold duplicates of its sockets for moments.
    let mut told = 0;
    for n in 0..1_000 {
        told += ends(a.sample(later(60.0 * f64::from(n + 1))));
        if told > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(told, 1);
    assert_eq!(ends(a.sample(later(100_000.0))), 0, "told once");
}

#[test]
fn a_child_inherits_and_its_exit_leaves_the_parent() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let s = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    rustix::io::fcntl_setfd(&s, rustix::io::FdFlags::empty()).unwrap();
    let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let me = std::process::id();
    let spec = TargetSpec { tree: true, ..targets(&[me]) };
    let (mut a, _) = start(&spec, &[]);
    let pids = |a: &Attribution| -> Vec<u32> { a.socket(id(&s)).unwrap().owners.iter().map(|o| o.pid).collect() };
    // Children of tests beside this one may inherit it too.
    assert!(pids(&a).contains(&me) && pids(&a).contains(&child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    let events = a.refresh(later(2.0));
    assert!(events.iter().any(|e| e.kind == EventKind::Exit { pid: child.id() }), "{events:?}");
    assert!(pids(&a).contains(&me) && !pids(&a).contains(&child.id()));
    assert!(!a.all_gone());
}

#[test]
fn the_last_owner_stays_and_the_watch_ends() {
    let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let (mut a, _) = start(&targets(&[child.id()]), &[]);
    assert!(!a.all_gone());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(a.refresh(later(1.0)).len(), 1);
    assert!(a.all_gone());
}

#[test]
fn idle_before_is_the_gap_before_the_unanswered_send() {
    let d = |sent: u64, ack: u64, received: u64| TcpDetail {
        last_sent: Some(Duration::from_secs(sent)),
        last_ack: Some(Duration::from_secs(ack)),
        last_received: Some(Duration::from_secs(received)),
        ..TcpDetail::default()
    };
    assert_eq!(idle_before(&d(1, 61, 62)), Some(Duration::from_secs(60)), "sent into 60 s of silence");
    assert_eq!(idle_before(&d(30, 30, 30)), Some(Duration::from_secs(30)), "answered; then silence until the RST");
    assert_eq!(idle_before(&TcpDetail::default()), None);
}
