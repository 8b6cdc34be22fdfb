//! Network namespaces: which one a process is in, and doing something inside it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The agent never leaves its own for good: asked once.
fn own_inode() -> io::Result<u32> {
    static OWN: OnceLock<u32> = OnceLock::new();
    match OWN.get() {
        Some(inode) => Ok(*inode),
        None => inode_of(&File::open("/proc/self/ns/net")?).map(|inode| *OWN.get_or_init(|| inode)),
    }
}

/// A network namespace, held open: it lives on when its last process exits.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
    inode: u32,
    own: bool,
}

impl NetNs {
    /// The agent's own.
    pub fn own() -> io::Result<Self> {
        let file = File::open("/proc/self/ns/net")?;
        let inode = inode_of(&file)?;
        Ok(Self { file: Arc::new(file), inode, own: true })
    }

    /// That of a process; needs the right to ptrace it (same uid, or CAP_SYS_PTRACE).
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::from_fd(File::open(format!("/proc/{pid}/ns/net"))?.into())
    }

    /// From a descriptor of a namespace (`/proc/PID/ns/net`, `ioctl(SIOCGSKNS)`).
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let inode = inode_of(&file)?;
        Ok(Self { file: Arc::new(file), inode, own: inode == own_inode()? })
    }

    /// That of a socket (SIOCGSKNS), which may be another than its process's; needs CAP_NET_ADMIN there.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        /// `linux/sockios.h`
        const SIOCGSKNS: libc::Ioctl = 0x894c;
        // SAFETY: the request takes no argument and returns a new descriptor.
        let raw = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made by the kernel for us; nobody else owns it.
        Self::from_fd(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// As the kernel programs and `ls -i /proc/PID/ns/net` show it.
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Whether it is the agent's own namespace.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Runs `work` inside the namespace: on a thread of its own that ends with it, so that no other code ever runs
    /// in a foreign namespace. In the agent's own namespace it just runs.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.own {
            return work();
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024);
            let handle = thread.spawn_scoped(scope, || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            })?;
            handle.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
        })
    }
}

/// Namespace inode numbers have 32 bits (`proc_alloc_inum`).
fn inode_of(file: &File) -> io::Result<u32> {
    u32::try_from(file.metadata()?.ino()).map_err(|_| io::Error::other("network namespace inode beyond 32 bits"))
}
