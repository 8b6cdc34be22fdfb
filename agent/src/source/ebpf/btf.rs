//! A small reader of BTF (`Documentation/bpf/btf.rst`): where the running kernel keeps its structure members, what
//! its enumerations are called, which arguments its tracepoints have. aya parses BTF too but keeps members private.
//!
//! Bounds are checked everywhere: garbage gives an error or `None`, never a panic.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;

use foldhash::fast::RandomState;

/// BTF kinds.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Typedefs, pointers and nested anonymous members are followed at most this deep: a cycle in garbage must end.
const MAX_DEPTH: u32 = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BtfError {
    /// Too short, wrong magic, or sections beyond the end.
    NotBtf,
    /// A type of this kind is newer than this reader (its length is unknown); the types up to it are lost too.
    UnknownKind(u32),
    /// A type reaches beyond its section.
    Truncated,
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBtf => write!(f, "not BTF"),
            Self::UnknownKind(k) => write!(f, "unknown BTF kind {k}"),
            Self::Truncated => write!(f, "truncated BTF"),
        }
    }
}

impl std::error::Error for BtfError {}

/// A structure member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// From the beginning of the outermost structure, bits.
    pub bit_offset: u32,
    /// Width of a bit field, 0 for an ordinary member.
    pub bit_size: u32,
    /// Bytes; 0 where unknown (a flexible array, an incomplete type).
    pub size: u32,
    type_id: u32,
}

impl Member {
    /// Byte offset; `None` for a bit field that does not begin on a byte.
    pub fn offset(&self) -> Option<u32> {
        self.bit_offset.is_multiple_of(8).then_some(self.bit_offset / 8)
    }
}

/// Type ids by name: of the kernel, which need no hash that holds out against an adversary.
type Names<'a> = HashMap<&'a [u8], u32, RandomState>;

/// Parsed BTF; borrows the bytes.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position of each type in `types`, by type id; id 0 is void.
    positions: Vec<u32>,
    structs: Names<'a>,
    enums: Names<'a>,
    /// `btf_trace_*` typedefs and `bpf_iter_*` functions.
    hooks: Names<'a>,
}

impl<'a> Btf<'a> {
    /// Reads the headers and indexes the names.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let header = |at: usize| u32_at(data, at).map(|v| v as usize).ok_or(BtfError::NotBtf);
        if data.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return Err(BtfError::NotBtf);
        }
        let start = header(4)?;
        let section = |offset: usize, length: usize| {
            let from = start.checked_add(offset)?;
            data.get(from..from.checked_add(length)?)
        };
        let types = section(header(8)?, header(12)?).ok_or(BtfError::NotBtf)?;
        let strings = section(header(16)?, header(20)?).ok_or(BtfError::NotBtf)?;
        let mut btf = Self {
            types,
            strings,
            positions: Vec::with_capacity(types.len() / 24 + 1),
            structs: Names::with_capacity_and_hasher(16_384, RandomState::default()),
            enums: Names::with_capacity_and_hasher(4_096, RandomState::default()),
            hooks: Names::with_capacity_and_hasher(2_048, RandomState::default()),
        };
        btf.positions.push(0);
        let mut at = 0;
        while at < types.len() {
            let id = btf.positions.len() as u32;
            btf.positions.push(at as u32);
            let (kind, length) = btf.header_at(at).ok_or(BtfError::Truncated)?;
            btf.index(id, at, kind);
            at += 12 + extra(kind, length).ok_or(BtfError::UnknownKind(kind))?;
            if at > types.len() {
                return Err(BtfError::Truncated);
            }
        }
        Ok(btf)
    }

    fn index(&mut self, id: u32, at: usize, kind: u32) {
        let names = match kind {
            kind::STRUCT | kind::UNION => &mut self.structs,
            kind::ENUM | kind::ENUM64 => &mut self.enums,
            kind::TYPEDEF | kind::FUNC => &mut self.hooks,
            _ => return,
        };
        let offset = u32_at(self.types, at).unwrap_or(0);
        let Some(rest) = self.strings.get(offset as usize..) else { return };
        // Most functions and typedefs are of no interest: where their names end is not looked for, and comparing with a
        // constant takes no call.
        let wanted = match kind {
            kind::TYPEDEF => rest.starts_with(b"btf_trace_"),
            kind::FUNC => rest.starts_with(b"bpf_iter_"),
            _ => true,
        };
        if !wanted {
            return;
        }
        match string(self.strings, offset) {
            Some(name) if !name.is_empty() => drop(names.entry(name).or_insert(id)),
            _ => {}
        }
    }

    /// Kind and number of elements.
    fn header_at(&self, at: usize) -> Option<(u32, u32)> {
        u32_at(self.types, at + 4).map(|info| (info >> 24 & 0x1f, info & 0xffff))
    }

    fn position(&self, id: u32) -> Option<usize> {
        if id == 0 { None } else { self.positions.get(id as usize).map(|p| *p as usize) }
    }

    /// Through typedefs and qualifiers to the type itself.
    fn resolve(&self, mut id: u32) -> Option<(u32, u32, u32, usize)> {
        for _ in 0..MAX_DEPTH {
            let at = self.position(id)?;
            let (kind, length) = self.header_at(at)?;
            match kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = u32_at(self.types, at + 8)?;
                }
                _ => return Some((id, kind, length, at)),
            }
        }
        None
    }

    fn size_of(&self, id: u32, depth: u32) -> u32 {
        let Some((_, kind, _, at)) = self.resolve(id) else { return 0 };
        match kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                u32_at(self.types, at + 8).unwrap_or(0)
            }
            kind::PTR => size_of::<usize>() as u32,
            kind::ARRAY if depth < MAX_DEPTH => {
                let element = u32_at(self.types, at + 12).map_or(0, |t| self.size_of(t, depth + 1));
                element.saturating_mul(u32_at(self.types, at + 20).unwrap_or(0))
            }
            _ => 0,
        }
    }

    fn find(&self, id: u32, name: &[u8], depth: u32) -> Option<Member> {
        let (_, kind, length, at) = self.resolve(id)?;
        if depth >= MAX_DEPTH || (kind != kind::STRUCT && kind != kind::UNION) {
            return None;
        }
        let bit_fields = u32_at(self.types, at + 4)? >> 31 != 0;
        for i in 0..length as usize {
            let m = at + 12 + 12 * i;
            let member = string(self.strings, u32_at(self.types, m)?)?;
            let (type_id, raw) = (u32_at(self.types, m + 4)?, u32_at(self.types, m + 8)?);
            let (bit_offset, bit_size) = if bit_fields { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            if member == name {
                return Some(Member { bit_offset, bit_size, size: self.size_of(type_id, 0), type_id });
            }
            // The members of an anonymous member count as the structure's own.
            if member.is_empty()
                && let Some(inner) = self.find(type_id, name, depth + 1)
            {
                return Some(Member { bit_offset: bit_offset.checked_add(inner.bit_offset)?, ..inner });
            }
        }
        None
    }

    /// The member at `path`: «struct.member.member», through anonymous members; pointers are not followed.
    pub fn member(&self, path: &str) -> Option<Member> {
        let mut names = path.split('.');
        let mut id = *self.structs.get(names.next()?.as_bytes())?;
        let mut found: Option<Member> = None;
        for name in names {
            let inner = self.find(id, name.as_bytes(), 0)?;
            let before = found.map_or(0, |m| m.bit_offset);
            found = Some(Member { bit_offset: before.checked_add(inner.bit_offset)?, ..inner });
            id = inner.type_id;
        }
        found
    }

    /// Name and value of every member of an enumeration; empty if there is none of that name.
    pub fn enum_values(&self, name: &str) -> Vec<(&'a str, i64)> {
        let Some((_, kind, length, at)) = self.enums.get(name.as_bytes()).and_then(|id| self.resolve(*id)) else {
            return Vec::new();
        };
        let width = if kind == kind::ENUM64 { 12 } else { 8 };
        (0..length as usize)
            .filter_map(|i| {
                let e = at + 12 + width * i;
                let name = std::str::from_utf8(string(self.strings, u32_at(self.types, e)?)?).ok()?;
                let low = u32_at(self.types, e + 4)?;
                let value = if kind == kind::ENUM64 {
                    i64::from(u32_at(self.types, e + 8)?) << 32 | i64::from(low)
                } else {
                    i64::from(low as i32)
                };
                Some((name, value))
            })
            .collect()
    }

    /// Arguments of the BTF tracepoint `name`; `None` if the kernel has no such tracepoint.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<u32> {
        let id = self.hook(&format!("btf_trace_{name}"))?;
        let (_, kind, _, at) = self.resolve(id)?;
        if kind != kind::PTR {
            return None;
        }
        let (_, kind, length, _) = self.resolve(u32_at(self.types, at + 8)?)?;
        // The first parameter is the tracepoint's private `void *`.
        if kind == kind::FUNC_PROTO { length.checked_sub(1) } else { None }
    }

    /// Type id of a `btf_trace_*` typedef or a `bpf_iter_*` function.
    pub fn hook(&self, name: &str) -> Option<u32> {
        self.hooks.get(name.as_bytes()).copied()
    }
}

/// BTF with nothing but the given hooks at their type ids (name, id, is a function): the gaps are void pointers.
pub fn skeleton(hooks: &[(String, u32, bool)]) -> Vec<u8> {
    let mut by_id: Vec<&(String, u32, bool)> = hooks.iter().filter(|(_, id, _)| *id > 0).collect();
    by_id.sort_by_key(|(_, id, _)| *id);
    let last = by_id.last().map_or(0, |(_, id, _)| *id) as usize;
    let mut strings = vec![0u8];
    let mut types = Vec::with_capacity(12 * last);
    let filler: [u32; 3] = [0, kind::PTR << 24, 0];
    let mut next = 1;
    for (name, id, function) in by_id {
        if *id < next {
            continue;
        }
        for _ in next..*id {
            types.extend(filler.iter().flat_map(|w| w.to_ne_bytes()));
        }
        let kind = if *function { kind::FUNC } else { kind::TYPEDEF };
        let hook = [strings.len() as u32, kind << 24, 0];
        types.extend(hook.iter().flat_map(|w| w.to_ne_bytes()));
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        next = id + 1;
    }
    let header = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let mut out = Vec::with_capacity(24 + types.len() + strings.len());
    out.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
    // Version 1, no flags.
    out.extend_from_slice(&[1, 0]);
    out.extend(header.iter().flat_map(|w: &u32| w.to_ne_bytes()));
    out.extend_from_slice(&types);
    out.extend_from_slice(&strings);
    out
}

/// Bytes after a type's 12-byte header.
fn extra(kind: u32, length: u32) -> Option<usize> {
    let n = length as usize;
    Some(match kind {
        kind::PTR | 7..=12 | kind::FLOAT | kind::TYPE_TAG => 0,
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * n,
        kind::ENUM | kind::FUNC_PROTO => 8 * n,
        _ => return None,
    })
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn string(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = strings.get(offset as usize..)?;
    CStr::from_bytes_until_nul(rest).ok().map(CStr::to_bytes)
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
