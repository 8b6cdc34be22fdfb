//! sock_diag: `tcp_info`, queues and timers of sockets, per network namespace; works without root.
