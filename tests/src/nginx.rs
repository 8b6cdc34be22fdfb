//! nginx in a namespace, with a configuration of the test's own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::lab::{Ns, cmd};
use crate::wait::until;

/// A running nginx; ends with its master when dropped.
pub struct Nginx {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Nginx {
    /// Answers every request with `ok`; closes idle connections after `keepalive` (as in `keepalive_timeout`).
    pub fn start(ns: &Ns, at: SocketAddr, keepalive: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let d = directory.path().display();
        let config = format!(
            "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log;\nevents {{ }}\nhttp {{\n access_log off;\n \
             client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; \
             scgi_temp_path {d}/s;\n keepalive_timeout {keepalive};\n server {{ listen {at}; location / {{ return 200 \"ok\"; }} \
             }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).expect("write nginx.conf");
        let mut command = Command::new(cmd::tool("nginx").expect("nginx is installed by `cargo xtask test`"));
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        ns.enter_on_exec(&mut command);
        let child = command.spawn().expect("start nginx");
        until("nginx to listen", || ns.run(|| std::net::TcpStream::connect(at).is_ok()).unwrap_or(false));
        Self { child, _directory: directory }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
