//! Records of sockets that left, for the next ones: each is 1.2 KiB in several pieces, which an allocator takes back and
//! gives out again at the price of folding an event.

use std::collections::VecDeque;

use super::socket::Socket;
use crate::model::{Mono, Owners, Shared, SocketId};

/// How many are kept.
const MOST: usize = 64;

/// In the order in which they left.
#[derive(Default)]
pub(super) struct Spare {
    left: VecDeque<Shared<Socket>>,
    /// How many of them, the first, have let go of what they shared with others.
    free: usize,
}

impl Spare {
    /// The record of a new socket.
    pub fn begin(&mut self, id: SocketId, at: Mono) -> Shared<Socket> {
        let usable = self.free > 0 || self.left.len() >= MOST;
        self.free = self.free.saturating_sub(1);
        if usable
            && let Some(mut socket) = self.left.pop_front()
            // A picture that somebody still looks at may have it.
            && let Some(s) = Shared::get_mut(&mut socket)
        {
            s.begin(id, at);
            return socket;
        }
        Shared::new(Socket::new(id, at))
    }

    pub fn keep(&mut self, socket: Shared<Socket>) {
        if self.left.len() < MOST {
            self.left.push_back(socket);
        }
    }

    /// Makes all leave what they share with others, one after the other: each such count waits until all is written that
    /// was before.
    pub fn let_go(&mut self) {
        for socket in self.left.range_mut(self.free..) {
            if let Some(s) = Shared::get_mut(socket) {
                s.owners = Owners::default();
            }
        }
        self.free = self.left.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Owner;

    #[test]
    fn a_record_begins_anew_where_one_was_that_nobody_looks_at() {
        let mut spare = Spare::default();
        let owners: Owners = [Owner { pid: 1, comm: "a".into(), fd: None, program: None }].into();
        let mut old = Shared::new(Socket::new(SocketId(1), Mono(1)));
        Shared::get_mut(&mut old).unwrap().owners = owners.clone();
        let (place, picture) = (old.as_ptr(), Shared::new(Socket::new(SocketId(2), Mono(2))));
        spare.keep(old);
        spare.keep(picture.clone());
        // Not before it has let go.
        assert_ne!(spare.begin(SocketId(3), Mono(3)).as_ptr(), place);
        spare.let_go();
        let new = spare.begin(SocketId(4), Mono(4));
        assert_eq!((new.as_ptr(), &*new), (place, &Socket::new(SocketId(4), Mono(4))));
        let another = spare.begin(SocketId(5), Mono(5));
        assert_ne!(another.as_ptr(), picture.as_ptr());
        assert_eq!(picture.id, SocketId(2));
        (0..200).for_each(|n| spare.keep(Shared::new(Socket::new(SocketId(n), Mono(0)))));
        assert_eq!(spare.left.len(), MOST);
    }
}
