//! The BTF of the running kernel: mapped where the kernel offers that (Linux 6.16 and later), which saves copying five
//! to ten megabytes at every start, else read.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};

use rustix::fs::{FsWord, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Where the kernel has it.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `SYSFS_MAGIC` (`include/uapi/linux/magic.h`).
const SYSFS: FsWord = 0x6265_6572;

pub enum Vmlinux {
    Mapped { address: NonNull<u8>, len: usize },
    Read(Vec<u8>),
}

impl Vmlinux {
    /// Errors: the file is missing (a kernel without CONFIG_DEBUG_INFO_BTF) or cannot be read.
    pub fn open() -> io::Result<Self> {
        let mut file = File::open(VMLINUX)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if let Some(address) = map(&file, len) {
            return Ok(Self::Mapped { address, len });
        }
        let mut data = Vec::with_capacity(len);
        file.read_to_end(&mut data)?;
        Ok(Self::Read(data))
    }
}

/// `None` where the kernel does not map it, and for a file that somebody mounted in its place: that could be cut short.
fn map(file: &File, len: usize) -> Option<NonNull<u8>> {
    if fstatfs(file).ok()?.f_type != SYSFS {
        return None;
    }
    // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that is in use.
    let address = unsafe { mmap(null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0) };
    NonNull::new(address.ok()?.cast())
}

impl Deref for Vmlinux {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: mapped for as long as `self`; in sysfs it is part of the kernel's image, which nobody changes.
            Self::Mapped { address, len } => unsafe { std::slice::from_raw_parts(address.as_ptr(), *len) },
            Self::Read(data) => data,
        }
    }
}

impl Drop for Vmlinux {
    fn drop(&mut self) {
        if let Self::Mapped { address, len } = self {
            // SAFETY: the mapping of `open`, with its size; whoever borrowed from it is gone.
            let _ = unsafe { munmap(address.as_ptr().cast(), *len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_as_read() {
        let btf = Vmlinux::open().unwrap();
        assert!(*btf == std::fs::read(VMLINUX).unwrap()[..]);
    }
}
