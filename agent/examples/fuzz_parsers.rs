//! Throws damaged input at what reads the kernel's and the user's words: ring records, tracefs `format` files, BTF,
//! sock_diag replies, `--dst`. `cargo run -p agent --example fuzz_parsers -- SECONDS [SEED]`, SECONDS for each (part of
//! `cargo xtask test --fuzz`).

use std::mem::offset_of;
use std::process::ExitCode;

use agent::attribute::destination::Destination;
use agent::model::{EventKind, SocketId};
use agent::source::cgroup2;
use agent::source::diag::message::{Message, Messages, parse_socket};
use agent::source::ebpf::btf::{Btf, skeleton};
use agent::source::ebpf::convert::Converter;
use agent::source::ebpf::decode::decode;
use agent::source::ebpf::tracefs::{Format, mount_point};
use agent_common::{Offsets, Record, SockStats, TcpDetail, flag, kind};

#[path = "fuzz/mod.rs"]
mod fuzz;

use fuzz::Random;

const FORMATS: [&str; 2] = [
    "name: tcp_send_reset\nID: 1234\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\tfield:const void * skaddr;\toffset:16;\tsize:8;\tsigned:0;\n\tfield:enum sk_rst_reason reason;\toffset:28;\tsize:4;\tsigned:0;\n\tfield:__u8 saddr[28];\toffset:32;\tsize:28;\tsigned:0;\n\nprint fmt: \"reason=%s\", __print_symbolic(REC->reason, { 0, \"NOT_SPECIFIED\" }, { 0x1, \"NO_SOCKET\" }, { -1, \"X\" })\n",
    "tracefs /sys/kernel/tracing tracefs rw,nosuid 0 0\ndebugfs /sys/kernel/debug debugfs rw 0 0\nnone /sys/fs/cgroup\\040x cgroup2 rw 0 0\n",
];
const DESTINATIONS: [&str; 12] = [
    "api.example.com:443",
    "10.0.0.0/8:8080",
    "[2001:db8::]/32",
    "[2001:db8::/32]:443",
    "::ffff:1.2.3.4",
    ":443",
    "*:443",
    "1.2.3.4",
    "fe80::1%eth0",
    "a.b.c-d_e.",
    "65535:65536",
    "0x7f.1/33",
];
/// `struct nlmsghdr`, `inet_diag_msg`, `tcp_info` with room for later kernels' fields.
const LENGTHS: [usize; 3] = [16, 72, 280];
const SOCK_DIAG_BY_FAMILY: u16 = 20;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().and_then(|a| a.parse().ok()).unwrap_or(10);
    let seed = args.next().and_then(|a| a.parse().ok()).unwrap_or(0x5eed_u64);
    std::panic::set_hook(Box::new(|_| {}));
    let text = |all: &[&str]| -> Vec<Vec<u8>> { all.iter().map(|t| t.as_bytes().to_vec()).collect() };
    let results = [
        fuzz::hunt("ring records", seconds, seed, &records(), whole_record, record),
        fuzz::hunt("tracefs", seconds, seed, &text(&FORMATS), digits, tracefs),
        fuzz::hunt("BTF", seconds, seed, &[skeletons(), types()], |input, random| words(input, random), btf),
        fuzz::hunt("sock_diag", seconds, seed, &replies(), |input, random| words(input, random), sock_diag),
        fuzz::hunt("destinations", seconds, seed, &text(&DESTINATIONS), whole_destination, destination),
    ];
    let mut code = ExitCode::SUCCESS;
    for why in results.into_iter().filter_map(Result::err) {
        eprintln!("fuzz_parsers: {why}");
        code = ExitCode::FAILURE;
    }
    code
}

/// One of each kind, with what its flags announce.
fn records() -> Vec<Vec<u8>> {
    let more = [(0, 0), (flag::HAS_DETAIL, size_of::<TcpDetail>()), (flag::HAS_STATS, size_of::<SockStats>())];
    let mut all = Vec::new();
    for kind in 1..kind::COUNT {
        for (flags, length) in more {
            let mut bytes = vec![2u8; size_of::<Record>() + length];
            bytes[offset_of!(Record, kind)] = kind as u8;
            bytes[offset_of!(Record, flags)] = flags | flag::HAS_PACKET | flag::HAS_REASON;
            all.push(bytes);
        }
    }
    all
}

/// Back to a length and a kind that are right, or nothing behind the first check would be reached.
fn whole_record(input: &mut Vec<u8>, random: &mut Random) {
    let all = records();
    let whole = &all[random.below(all.len())];
    input.resize(whole.len(), 0xff);
    for at in [offset_of!(Record, kind), offset_of!(Record, flags)] {
        input[at] = whole[at];
    }
}

fn record(input: &[u8]) -> bool {
    let Ok(decoded) = decode(input) else { return false };
    let mut converter = Converter {
        offsets: Offsets::NONE,
        tick_ns: 4_000_000,
        reasons: Default::default(),
        spare: Default::default(),
    };
    let (mut events, mut forks) = (Vec::new(), Vec::new());
    for socket in [None, Some(SocketId(7))] {
        converter.convert(decoded, socket, &mut events, &mut forks);
        for event in events.drain(..) {
            if let EventKind::Reset(reset) = event.kind {
                converter.reuse(reset);
            }
        }
    }
    true
}

/// A number or a sign gives way to another.
fn digits(input: &mut Vec<u8>, random: &mut Random) {
    const NEW: [&str; 10] =
        ["0", "-1", "65536", "4294967296", "18446744073709551616", "/129", ":", "]", "é", "\u{202e}"];
    let at = random.below(input.len());
    let end = input[at..].iter().position(|b| !b.is_ascii_digit()).map_or(input.len(), |n| at + n);
    input.splice(at..end, NEW[random.below(NEW.len())].bytes());
}

/// A good one with one number changed: among the bad ones hardly any gets past the first check.
fn whole_destination(input: &mut Vec<u8>, random: &mut Random) {
    *input = DESTINATIONS[random.below(DESTINATIONS.len())].into();
    if random.below(2) == 0 {
        digits(input, random);
    }
}

fn tracefs(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let format = Format::parse(&text);
    format.symbols("reason");
    let found = format.field("reason").is_some() || format.field("saddr").is_some();
    found | mount_point(&text).is_some() | cgroup2::mount_point(&text).is_some()
}

fn skeletons() -> Vec<u8> {
    skeleton(&[("btf_trace_tcp_send_reset".into(), 9, false), ("bpf_iter_tcp".into(), 12, true)])
}

/// A structure with an anonymous union and a bit field, an enumeration, and a tracepoint with two arguments.
fn types() -> Vec<u8> {
    let strings = b"\0u32\0sock\0member\0bits\0reasons\0A\0btf_trace_x\0";
    let name = |n: &str| {
        let at = strings.windows(n.len() + 1).position(|w| w[..n.len()] == *n.as_bytes() && w[n.len()] == 0);
        at.unwrap_or(0) as u32
    };
    // INT 1, PTR 2, STRUCT 4, UNION 5, ENUM 6, TYPEDEF 8, FUNC_PROTO 13 (include/uapi/linux/btf.h).
    let kind = |kind: u32, length: u32| kind << 24 | length;
    let (member, bits) = (name("member"), name("bits"));
    let words = [
        &[name("u32"), kind(1, 0), 4, 32][..],
        &[0, kind(5, 1), 4, member, 1, 0],
        &[name("sock"), kind(4, 2) | 1 << 31, 8, 0, 2, 0, bits, 1, 35 | 5 << 24],
        &[name("reasons"), kind(6, 2), 4, name("A"), 0, name("A"), u32::MAX],
        &[0, kind(13, 3), 0, 0, 1, 0, 1, 0, 1],
        &[0, kind(2, 0), 5],
        &[name("btf_trace_x"), kind(8, 0), 6],
        &[name("reasons"), kind(8, 0), 8],
    ]
    .concat();
    let length = words.len() as u32 * 4;
    let mut out = 0xeb9f_u16.to_ne_bytes().to_vec();
    out.extend([1, 0]);
    for w in [24, 0, length, length, strings.len() as u32].iter().chain(&words) {
        out.extend(w.to_ne_bytes());
    }
    out.extend(strings);
    out
}

/// A 32-bit word at its place becomes small or extreme: lengths, offsets, type numbers.
fn words(input: &mut [u8], random: &mut Random) {
    const NEW: [u32; 10] = [0, 1, 2, 9, 16, 0x0100_0004, 0x0400_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let at = random.below(input.len() / 4) * 4;
    if let Some(word) = input.get_mut(at..at + 4) {
        word.copy_from_slice(&NEW[random.below(NEW.len())].to_ne_bytes());
    }
}

fn btf(input: &[u8]) -> bool {
    let Ok(btf) = Btf::parse(input) else { return false };
    for path in ["sock.member", "sock.bits", "sock.member.member", "reasons", "", "."] {
        let _ = btf.member(path).map(|m| m.offset());
    }
    btf.enum_values("reasons");
    for name in ["x", "tcp_send_reset"] {
        btf.tracepoint_arguments(name);
    }
    btf.hook("bpf_iter_tcp");
    true
}

/// A dump's datagrams: two sockets with attributes, its end, an error.
fn replies() -> Vec<Vec<u8>> {
    let message = |kind: u16, body: &[u8]| {
        let mut out = ((LENGTHS[0] + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([2, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        out.extend(body);
        out
    };
    let attribute = |kind: u16, value: &[u8]| {
        let mut out = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    };
    let socket = |family: u8, state: u8| {
        let mut body = vec![1u8; LENGTHS[1]];
        body[..4].copy_from_slice(&[family, state, 1, 2]);
        body.extend(attribute(2, &[3; LENGTHS[2]]));
        body.extend(attribute(11, &[1]));
        body.extend(attribute(19, &attribute(1, b"mptcp\0")));
        message(SOCK_DIAG_BY_FAMILY, &body)
    };
    let ends = [message(3, &[0; 4]), message(2, &(-2i32).to_ne_bytes())].concat();
    vec![[socket(2, 1), socket(10, 8), ends].concat(), socket(10, 2)]
}

fn sock_diag(input: &[u8]) -> bool {
    let mut understood = false;
    for (n, message) in Messages::new(input).enumerate() {
        assert!(n <= input.len(), "more messages than bytes");
        if let Ok((_, Message::Socket(body))) = message {
            understood |= parse_socket(body).is_ok();
        }
    }
    understood
}

fn destination(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    match text.parse::<Destination>() {
        Ok(d) => {
            assert_eq!(d.text.parse::<Destination>().as_ref(), Ok(&d), "it means something else the second time");
            assert!(d.prefix().is_some() != d.name().is_some(), "either a name or a network");
            d.matches(&([1, 2, 3, 4], 443).into());
            true
        }
        Err(why) => {
            // A terminal obeys what it is shown.
            assert!(!why.to_string().chars().any(char::is_control), "{why:?}");
            false
        }
    }
}
