//! The iterators: every TCP socket of a network namespace with its options, changed in the same pass if asked; and
//! which process holds which socket, on the whole machine at once.

use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::AsFd;

use agent_common::{FileRow, OwnerRow, SetRow, TcpRow};
use anyhow::{Context, anyhow, bail};
use aya::maps::{HashMap, Map, MapError};
use aya::programs::{Iter, ProgramError};
use aya::{Ebpf, EbpfLoader};

use super::object::{self, Globals, OBJECT};
use super::offsets::KernelTypes;
use super::refusal::{explain, why};
use crate::model::SocketId;
use crate::source::diag::NetNs;

/// Sockets that one [`Iterators::set`] can take: the size of the map `ITER_SET`.
pub const MAX_SET: usize = 65_536;
/// Processes that are looked at one by one; with more of them one walk over all is cheaper.
const MAX_SINGLE: usize = 16;
/// The kernel fills at most 32 KiB per read of an iterator (`bpf_seq_read`).
const READ_BYTES: usize = 64 * 1024;
/// Rows beyond this are not taken in: 16 million descriptors, 1.4 GiB.
const MAX_ROWS: usize = 16 << 20;

/// The iterator programs, each loaded when first used. Needs CAP_BPF and CAP_PERFMON (to change sockets also
/// CAP_NET_ADMIN), a kernel with BTF, 5.9 for lists, 5.11 for owners, 6.1 to change.
pub struct Iterators {
    ebpf: Ebpf,
    btf: aya::Btf,
    /// What is in the map `ITER_SET`: emptied before it is filled anew, not after its use, as most use it once.
    filled: Vec<u64>,
}

impl Iterators {
    /// Reads the kernel's BTF and creates the maps.
    pub fn load() -> anyhow::Result<Self> {
        Self::sized(MAX_SET)
    }

    /// As [`Self::load`], for lists only: nothing can be [`Self::set`].
    pub fn load_lists() -> anyhow::Result<Self> {
        Self::sized(1)
    }

    fn sized(max_set: usize) -> anyhow::Result<Self> {
        // Each takes as long as the other, and neither needs the other's result.
        let loader = super::load::begin();
        let types = KernelTypes::resolve()?;
        let loader = loader.join().map_err(|_| anyhow!("the thread that prepares the loader panicked"))?;
        Self::with(loader, &types, max_set)
    }

    /// As [`Self::load`], with types resolved already.
    pub fn with_types(types: &KernelTypes) -> anyhow::Result<Self> {
        Self::with(super::load::loader(), types, MAX_SET)
    }

    fn with(loader: EbpfLoader<'_>, types: &KernelTypes, max_set: usize) -> anyhow::Result<Self> {
        let globals = Globals::with_types(types);
        let mut loader = object::configure(loader, &globals);
        loader.map_max_entries("ITER_SET", max_set as u32);
        let ebpf = loader.load(OBJECT).map_err(explain)?;
        Ok(Self { ebpf, btf: types.aya()?, filled: Vec::new() })
    }

    /// Who holds which TCP or MPTCP socket: every thread group, every network namespace.
    pub fn files(&mut self) -> anyhow::Result<Vec<FileRow>> {
        let mut file = self.open("list_files", "task_file", None)?;
        rows(&mut file).context("cannot read iter/task_file")
    }

    /// As [`Self::files`] in short, one by one; the descriptors of a process come together.
    pub fn each_owner(&mut self, each: impl FnMut(&OwnerRow)) -> anyhow::Result<()> {
        let mut file = self.open("list_owners", "task_file", None)?;
        each_row(&mut file, each).context("cannot read iter/task_file")
    }

    /// As [`Self::files`] for a few processes only: the kernel walks their descriptors and nobody else's. Before Linux
    /// 6.1 it walks them all.
    pub fn files_of(&mut self, pids: &[u32]) -> anyhow::Result<Vec<FileRow>> {
        if pids.len() > MAX_SINGLE {
            return self.files();
        }
        let program = self.program("list_files", "task_file")?.fd()?.try_clone().context("too many open files")?;
        let mut all = Vec::new();
        for pid in pids {
            match super::sys::task_iterator(program.as_fd(), *pid) {
                Ok(mut file) => all.extend(rows::<FileRow>(&mut file).context("cannot read iter/task_file")?),
                // It has ended.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => return self.files(),
            }
        }
        Ok(all)
    }

    /// Every TCP socket of `netns` with its options.
    pub fn list(&mut self, netns: &NetNs) -> anyhow::Result<Vec<TcpRow>> {
        let mut file = self.open("list_tcp", "tcp", Some(netns))?;
        rows(&mut file).context("cannot read iter/tcp")
    }

    /// Loads what [`Self::files`] and [`Self::set`] need, so that they take no longer than their work.
    pub fn prepare_set(&mut self) -> anyhow::Result<()> {
        self.program("list_files", "task_file")?;
        self.program("set_tcp", "tcp")?;
        Ok(())
    }

    /// Changes the given sockets of `netns`; one row for each that is there. More than [`MAX_SET`] is an error.
    pub fn set(&mut self, netns: &NetNs, sockets: &[(SocketId, SetRow)]) -> anyhow::Result<Vec<TcpRow>> {
        if sockets.len() > MAX_SET {
            bail!("at most {MAX_SET} sockets can be changed in one pass, got {}", sockets.len());
        }
        self.fill(sockets).with_context(|| format!("cannot hand {} sockets to the kernel", sockets.len()))?;
        let mut file = self.open("set_tcp", "tcp", Some(netns))?;
        rows(&mut file).context("cannot read iter/tcp")
    }

    /// Makes the map `ITER_SET` hold exactly `sockets`.
    fn fill(&mut self, sockets: &[(SocketId, SetRow)]) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("ITER_SET").context("the kernel object has no map ITER_SET")?;
        let data = if let Map::HashMap(data) = &*map { Some(data.fd().as_fd().try_clone_to_owned()?) } else { None };
        let mut map: HashMap<_, u64, SetRow> = HashMap::try_from(map)?;
        for cookie in std::mem::take(&mut self.filled) {
            match map.remove(&cookie) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(e).context("cannot empty the map ITER_SET"),
            }
        }
        self.filled = sockets.iter().map(|(id, _)| id.0).collect();
        let rows: Vec<SetRow> = sockets.iter().map(|(_, row)| *row).collect();
        let batched = data.is_some_and(|fd| super::sys::update_batch(fd.as_fd(), &self.filled, &rows).is_ok());
        if !batched {
            for (id, row) in sockets {
                map.insert(id.0, row, 0)?;
            }
        }
        Ok(())
    }

    fn program(&mut self, name: &str, kind: &str) -> anyhow::Result<&mut Iter> {
        let program: &mut Iter = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the kernel object has no program {name}"))?
            .try_into()?;
        if let Err(ProgramError::NotLoaded) = program.fd().map(|_| ()) {
            program.load(kind, &self.btf).map_err(|e| anyhow!("cannot load iter/{kind}: {}", why(&e)))?;
        }
        Ok(program)
    }

    /// An open iterator; the namespace is that of the thread that opens it.
    fn open(&mut self, name: &str, kind: &str, netns: Option<&NetNs>) -> anyhow::Result<File> {
        let program = self.program(name, kind)?;
        let id = program.attach().map_err(|e| anyhow!("cannot attach iter/{kind}: {}", why(&e)))?;
        let link = program.take_link(id)?;
        let open = move || link.into_file().map_err(io::Error::other);
        let opened = match netns {
            Some(netns) => netns.inside(open),
            None => open(),
        };
        opened.map_err(|e| match netns {
            Some(other) if !other.is_own() && e.kind() == io::ErrorKind::PermissionDenied => anyhow!(
                "cannot open iter/{kind} in network namespace {}: permission denied; run with sudo or grant \
                 CAP_SYS_ADMIN, which entering it takes",
                other.inode()
            ),
            _ => anyhow!("cannot open iter/{kind}: {e}"),
        })
    }
}

/// A row is a `repr(C)` struct of integers without padding.
trait Row: Copy {}
impl Row for TcpRow {}
impl Row for FileRow {}
impl Row for OwnerRow {}

fn rows<T: Row>(from: &mut impl Read) -> io::Result<Vec<T>> {
    let mut out = Vec::new();
    each_row(from, |row| out.push(*row))?;
    Ok(out)
}

fn each_row<T: Row>(from: &mut impl Read, mut each: impl FnMut(&T)) -> io::Result<()> {
    let mut count = 0;
    let mut buffer = vec![0u8; READ_BYTES];
    let mut filled = 0;
    loop {
        let n = match from.read(&mut buffer[filled..]) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if n == 0 {
            break;
        }
        filled += n;
        let whole = filled - filled % size_of::<T>();
        for chunk in buffer[..whole].chunks_exact(size_of::<T>()) {
            // SAFETY: the chunk has the size of T; any bytes are a T; read_unaligned asks for no alignment.
            each(&unsafe { chunk.as_ptr().cast::<T>().read_unaligned() });
            count += 1;
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if count > MAX_ROWS {
            return Err(io::Error::other("more sockets than can be taken in"));
        }
    }
    if filled != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the iterator ended within a row"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives at most `step` bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(to.len()).min(self.0.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn rows_are_joined_across_reads_and_a_torn_one_is_an_error() {
        let mut bytes = vec![0u8; 3 * size_of::<FileRow>()];
        bytes[size_of::<FileRow>()] = 7;
        let got: Vec<FileRow> = rows(&mut Slow(&bytes, 33)).unwrap();
        assert_eq!(got.iter().map(|r| r.cookie).collect::<Vec<_>>(), [0, 7, 0]);
        let torn: io::Result<Vec<FileRow>> = rows(&mut Slow(&bytes[..100], 33));
        assert_eq!(torn.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
