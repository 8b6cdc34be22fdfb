//! The embedded eBPF object and how to load it.

use agent_common::{ABSENT, ClassicFields, Offsets, Settings};
use aya::EbpfLoader;

/// The object that build.rs built from `agent-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AGENT_EBPF_EMBEDDED"));

/// Globals of the object: `.rodata`, frozen before the programs load.
#[derive(Debug, Clone, Copy)]
pub struct Globals {
    pub offsets: Offsets,
    pub settings: Settings,
    pub classic: ClassicFields,
}

impl Default for Globals {
    /// Nothing resolved: enough for programs that read no kernel structure.
    fn default() -> Self {
        Self {
            offsets: Offsets::NONE,
            settings: Settings { ca_state_byte: ABSENT, keepopen_bit: ABSENT, cookie_helper: 1, ..Default::default() },
            classic: ClassicFields::NONE,
        }
    }
}

impl Globals {
    /// With structure offsets, for BTF programs and iterators.
    pub fn with_types(types: &super::offsets::KernelTypes) -> Self {
        Self { offsets: types.offsets, settings: types.settings, ..Self::default() }
    }
}

/// A loader for [`OBJECT`]: pass it that, then load and attach single programs. Every map of the object is created,
/// each with the smallest size that works; raise those you use with `map_max_entries`.
pub fn loader(globals: &Globals) -> EbpfLoader<'_> {
    configure(super::load::loader(), globals)
}

/// [`loader`] from one made beforehand: making it (features are probed) takes about as long as our own
/// reading of BTF, so that it is worth a thread of its own.
pub fn configure<'a>(mut loader: EbpfLoader<'a>, globals: &'a Globals) -> EbpfLoader<'a> {
    loader
        // No CO-RE relocations: positions come in `globals`.
        .btf(None)
        .override_global("OFFSETS", &globals.offsets, true)
        .override_global("SETTINGS", &globals.settings, true)
        .override_global("CLASSIC", &globals.classic, true);
    loader
}
