//! What the running kernel can do, by its version: what a test may ask for. `cargo xtask test --kernels` runs the tests
//! on old ones too.

/// The running kernel is at least Linux `major.minor`.
pub fn at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    version(&release) >= (major, minor)
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Kernel programs read a socket's options (`bpf_getsockopt` of SO_KEEPALIVE and TCP_KEEP*), and so can change those of
/// open sockets.
pub fn programs_read_options() -> bool {
    at_least(6, 1)
}

/// Every RST that is sent passes `tcp_send_reset`; before, only those of full sockets do.
pub fn shows_resets_without_socket() -> bool {
    at_least(6, 10)
}

/// `tcp_send_reset` says why.
pub fn gives_reset_reasons() -> bool {
    at_least(6, 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_a_version() {
        assert_eq!(version("6.12.117+deb13-cloud-amd64"), (6, 12));
        assert!(version("5.10.0-46") < (6, 1));
        assert_eq!(version("odd"), (0, 0));
    }
}
