use super::*;

/// Builds BTF: types as words, names collected into the string section.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, kind: u32, length: u32, flag: bool, word: u32, rest: &[u32]) {
        let name = self.name(name);
        let info = kind << 24 | length | u32::from(flag) << 31;
        for w in [name, info, word].iter().chain(rest) {
            self.types.extend_from_slice(&w.to_ne_bytes());
        }
    }

    fn build(&self) -> Vec<u8> {
        let mut out = 0xeb9f_u16.to_ne_bytes().to_vec();
        out.extend_from_slice(&[1, 0]);
        for w in [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32] {
            out.extend_from_slice(&w.to_ne_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}

/// struct outer { u32 first; union { u32 inner; }; u32 bits : 5 (after 3); struct { u32 deep; } named; }
fn sample() -> Vec<u8> {
    let mut b = Builder::default();
    let (first, inner, bits, named, deep) =
        (b.name("first"), b.name("inner"), b.name("bits"), b.name("named"), b.name("deep"));
    b.add("u32", kind::INT, 0, false, 4, &[32]); // 1
    b.add("", kind::UNION, 1, false, 4, &[inner, 1, 0]); // 2
    b.add("", kind::STRUCT, 1, false, 8, &[deep, 1, 32]); // 3
    let members = [first, 1, 0, 0, 2, 32, bits, 1, 67 | 5 << 24, named, 3, 96];
    b.add("outer", kind::STRUCT, 4, true, 20, &members); // 4
    let (a, z) = (b.name("SK_RST_REASON_A"), b.name("SK_RST_REASON_Z"));
    b.add("reasons", kind::ENUM, 2, false, 4, &[a, 0, z, u32::MAX]); // 5
    b.add("", kind::FUNC_PROTO, 3, false, 0, &[0, 1, 0, 1, 0, 1]); // 6
    b.add("", kind::PTR, 0, false, 6, &[]); // 7
    b.add("btf_trace_x", kind::TYPEDEF, 0, false, 7, &[]); // 8
    b.add("loop", kind::TYPEDEF, 0, false, 9, &[]); // 9: itself
    b.build()
}

#[test]
fn members_are_found_through_anonymous_ones_and_paths() {
    let data = sample();
    let btf = Btf::parse(&data).unwrap();
    assert_eq!(btf.member("outer.first").and_then(|m| m.offset()), Some(0));
    assert_eq!(btf.member("outer.inner").and_then(|m| m.offset()), Some(4));
    assert_eq!(btf.member("outer.inner").map(|m| m.size), Some(4));
    assert_eq!(btf.member("outer.named.deep").and_then(|m| m.offset()), Some(16));
    let bits = btf.member("outer.bits").unwrap();
    assert_eq!((bits.bit_offset, bits.bit_size, bits.offset()), (67, 5, None));
    for missing in ["outer.none", "none.first", "outer.first.x", "outer", ""] {
        assert_eq!(btf.member(missing), None, "{missing}");
    }
}

#[test]
fn enumerations_and_tracepoints_are_read() {
    let data = sample();
    let btf = Btf::parse(&data).unwrap();
    assert_eq!(btf.enum_values("reasons"), [("SK_RST_REASON_A", 0), ("SK_RST_REASON_Z", -1)]);
    assert!(btf.enum_values("outer").is_empty());
    assert_eq!(btf.tracepoint_arguments("x"), Some(2));
    assert_eq!(btf.tracepoint_arguments("y"), None);
    assert_eq!(btf.hook("btf_trace_x"), Some(8));
}

#[test]
fn a_cycle_ends() {
    let data = sample();
    assert!(Btf::parse(&data).unwrap().resolve(9).is_none());
}

#[test]
fn every_truncation_and_every_changed_byte_is_survived() {
    let data = sample();
    let look = |bytes: &[u8]| {
        if let Ok(btf) = Btf::parse(bytes) {
            for path in ["outer.first", "outer.inner", "outer.named.deep", "outer.bits"] {
                let _ = btf.member(path);
            }
            let _ = btf.enum_values("reasons");
            let _ = btf.tracepoint_arguments("x");
        }
    };
    for n in 0..data.len() {
        look(&data[..n]);
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = data.clone();
            changed[n] = value;
            look(&changed);
        }
    }
    assert_eq!(Btf::parse(&data[..10]).err(), Some(BtfError::NotBtf));
    assert_eq!(Btf::parse(b"\x00\x01").err(), Some(BtfError::NotBtf));
}

#[test]
fn the_skeleton_keeps_names_at_their_ids() {
    let hooks = [("btf_trace_b".to_owned(), 9, false), ("bpf_iter_a".to_owned(), 3, true)];
    let bytes = skeleton(&hooks);
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!((btf.hook("btf_trace_b"), btf.hook("bpf_iter_a")), (Some(9), Some(3)));
    assert!(aya::Btf::parse(&bytes, aya::Endianness::default()).is_ok());
    assert!(Btf::parse(&skeleton(&[])).is_ok());
}
