use super::*;

/// tcp_send_reset of 6.18 and tcp_retransmit_skb of 5.10, shortened.
const SEND_RESET: &str = r#"name: tcp_send_reset
ID: 1234
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:const void * skbaddr;	offset:8;	size:8;	signed:0;
	field:const void * skaddr;	offset:16;	size:8;	signed:0;
	field:int state;	offset:24;	size:4;	signed:1;
	field:enum sk_rst_reason reason;	offset:28;	size:4;	signed:0;
	field:__u8 saddr[28];	offset:32;	size:28;	signed:0;

print fmt: "skbaddr=%p reason=%s", REC->skbaddr, __print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 0x1, "NO_SOCKET" }, { 14, "TCP_STATE" }), __print_symbolic(REC->state, { 1, "X" })
"#;

#[test]
fn fields_have_offset_and_size_and_absence_is_a_value() {
    let f = Format::parse(SEND_RESET);
    assert_eq!(f.field("skaddr"), Some(Field { offset: 16, size: 8 }));
    assert_eq!(f.field("saddr"), Some(Field { offset: 32, size: 28 }));
    assert_eq!(f.field("family"), None);
    assert_eq!(Format::parse("field:\nfield:int;\nfield:x;offset:;size:4;"), Format::default());
}

#[test]
fn reasons_come_from_the_print_format_of_their_own_field() {
    let f = Format::parse(SEND_RESET);
    let expected = [(0, "NOT_SPECIFIED"), (1, "NO_SOCKET"), (14, "TCP_STATE")].map(|(n, s)| (n, s.to_owned()));
    assert_eq!(f.symbols("reason"), expected);
    assert_eq!(f.symbols("state"), [(1, "X".to_owned())]);
    assert!(f.symbols("family").is_empty());
}

#[test]
fn mounts_are_found_by_type_with_tracefs_before_debugfs() {
    let mounts = "debugfs /sys/kernel/debug debugfs rw 0 0\ntracefs /a\\040b tracefs rw 0 0\n";
    assert_eq!(mount_point(mounts), Some(PathBuf::from("/a b")));
    assert_eq!(mount_point("d /dbg debugfs rw 0 0\n"), Some(PathBuf::from("/dbg/tracing")));
    assert_eq!(mount_point("proc /proc proc rw 0 0\n"), None);
}
