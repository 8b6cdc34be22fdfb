use super::*;
use crate::model::Component;
use crate::view::schema::{Line, LineContext, samples};

fn json(events: &[Event]) -> String {
    let clock = samples::clock();
    let mut out = String::new();
    for (seq, e) in (0u64..).zip(events) {
        let cx = LineContext { seq, clock: &clock, socket: None, redacted: true, part: 0 };
        out.push_str(&serde_json::to_string(&Line::new(e, cx).unwrap()).unwrap());
        out.push('\n');
    }
    out
}

#[test]
fn nothing_of_the_samples_identifies_anyone() {
    let mut r = Redactor::new(&[]);
    let out = json(&samples::all().iter().map(|e| r.event(e)).collect::<Vec<_>>());
    for secret in
        ["10.1.0.2", "192.0.2.7", "2001:db8::7", "fd00::2", "53072", "api.example.com", "worker", "user.slice"]
    {
        assert!(!out.contains(secret), "{secret} in {out}");
    }
    // What a diagnosis needs is still there.
    for stays in
        ["\"node\"", "idle-path-dead", ":443", "6.18.0", "tcp_retries2", "TCP_STATE", "94 KiB sent after 302.0 s idle"]
    {
        assert!(out.contains(stays), "{stays} not in {out}");
    }
}

#[test]
fn redacting_twice_changes_nothing_that_matters() {
    let once: Vec<Event> = {
        let mut r = Redactor::new(&[]);
        samples::all().iter().map(|e| r.event(e)).collect()
    };
    let mut r = Redactor::new(&[]);
    let twice = json(&once.iter().map(|e| r.event(e)).collect::<Vec<_>>());
    assert!(twice.contains("host-1.example") && !twice.contains("host-2.example"), "{twice}");
}

#[test]
fn a_destination_that_is_kept_stays_with_its_address() {
    let mut r = Redactor::new(&["API.example.com:443".into()]);
    let out = json(&samples::all().iter().map(|e| r.event(e)).collect::<Vec<_>>());
    assert!(out.contains("api.example.com") && out.contains("192.0.2.7:443"), "{out}");
    assert!(!out.contains("10.1.0.2"), "{out}");
}

#[test]
fn the_command_line_keeps_only_the_names_of_its_options() {
    let words = ["./agent", "run", "--dst=vault.internal", "--json", "/home/alice/x", "--", "curl", "-H", "key"];
    let words: Vec<String> = words.iter().map(|s| (*s).to_owned()).collect();
    assert_eq!(command(&words).join(" "), "agent run --dst --json …");
}

proptest::proptest! {
    /// Any address and host in any field or sentence is gone; the same stays the same.
    #[test]
    fn planted_secrets_do_not_survive(
        v4 in proptest::prelude::any::<[u8; 4]>(),
        v6 in proptest::prelude::any::<[u16; 8]>(),
        port in 1024u16..,
        host in "[a-z]{3,12}(-[a-z0-9]{1,5})?\\.(corp|internal|lan|acme\\.io)",
        user in "q[a-z]{5,9}z",
        comm in "z[a-zA-Z0-9_]{4,13}q",
        key in "[A-Za-z0-9]{8,30}[0-9][a-z]{8}",
        glue in proptest::sample::select(vec![" ", ", ", " (", "=", "\"", "'", " -> ", ";", ": "]),
    ) {
        let v4 = std::net::Ipv4Addr::from(v4);
        let v6 = std::net::Ipv6Addr::from(v6);
        proptest::prop_assume!(!v4.is_loopback() && !v4.is_unspecified() && !v6.is_loopback() && v6.to_ipv4_mapped().is_none());
        let sentence = format!(
            "x{glue}{v4}{glue}{v4}:{port}{glue}[{v6}]:{port}{glue}{v6}{glue}{host}:{port}{glue}https://{host}/{user}?k={key}{glue}/home/{user}/.ssh/{key}{glue}API_KEY={key}{glue}{user}@{host}{glue}{comm}{glue}end"
        );
        let mut all = samples::all();
        for e in &mut all {
            match &mut e.kind {
                EventKind::Session(s) => {
                    s.command = vec!["agent".into(), "run".into(), "--".into(), user.clone(), key.clone()];
                    s.targets.destinations = vec![host.clone(), format!("{v4}:{port}"), format!("{v6}")];
                    s.targets.comms = vec![comm.clone()];
                    s.targets.cgroup = Some(format!("/{user}"));
                    s.limits = vec![sentence.clone()];
                    s.kernel_release = format!("6.1.0-{user}");
                }
                EventKind::Socket(u) => {
                    u.remote_name = Some(host.as_str().into());
                    u.flow = Some(Flow { local: (v6, port).into(), remote: (v4, port).into() });
                    u.owners = Some([Owner {
                        pid: 1,
                        comm: comm.as_str().into(),
                        fd: None,
                        program: Some(planted(&[(&user, "1.0.0"), ("Node.js", &format!("1.{key}")), ("curl", &v4.to_string())])),
                    }].into());
                }
                EventKind::Reset(r) => {
                                        r.origin_why = sentence.clone().into();
                    r.kernel_reason = Some(sentence.clone().into());
                }
                EventKind::Finding(f) => {
                    f.destination = Some(format!("{host}:{port}"));
                    f.summary = sentence.clone();
                    f.evidence[0].text = sentence.clone();
                    f.rivals = vec![sentence.clone()];
                    f.advice = vec![sentence.clone()];
                }
                EventKind::Action(a) => {
                    a.error = Some(sentence.clone());
                    a.note = Some(sentence.clone());
                    a.remote = Some(format!("{v4}:{port}"));
                }
                EventKind::End(x) => x.reason = sentence.clone(),
                _ => {}
            }
        }
        let mut r = Redactor::new(&[]);
        let out = json(&all.iter().map(|e| r.event(e)).collect::<Vec<_>>());
        for secret in [v4.to_string(), v6.to_string(), host.clone(), user.clone(), comm.clone(), key.clone()] {
            proptest::prop_assert!(!out.contains(&secret), "{} in {}", secret, out);
        }
    }
}

fn planted(parts: &[(&str, &str)]) -> std::sync::Arc<[Component]> {
    parts.iter().map(|(n, v)| Component { name: (*n).into(), version: (*v).into() }).collect()
}
