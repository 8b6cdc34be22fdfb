//! Which client a process is, and what its own settings are called: advice that a person can type.

use std::time::Duration;

use super::text::span;

/// What is known of a process beyond its `comm`; read by whoever attributes sockets, never by a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clue {
    /// Path of the executable (`/proc/PID/exe`).
    pub exe: String,
    /// The command line's words, joined by spaces.
    pub cmdline: String,
}

/// A family of HTTP clients that share settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Client {
    Node,
    Bun,
    Python,
    Go,
    Rust,
    Curl,
    Java,
    #[default]
    Unknown,
}

impl Client {
    /// By the executable's name where known, else by `comm`. Go and Rust programs carry their own names: they are
    /// recognised only by `go run`'s and cargo's build directories.
    pub fn recognise(comm: &str, clue: Option<&Clue>) -> Self {
        if let Some(clue) = clue {
            let by_exe = Self::by_name(clue.exe.rsplit('/').next().unwrap_or(""));
            if by_exe != Self::Unknown {
                return by_exe;
            }
            if clue.exe.contains("/go-build") {
                return Self::Go;
            }
            if clue.exe.contains("/target/debug/") || clue.exe.contains("/target/release/") {
                return Self::Rust;
            }
            let first = clue.cmdline.split(' ').next().unwrap_or("");
            let by_cmdline = Self::by_name(first.rsplit('/').next().unwrap_or(""));
            if by_cmdline != Self::Unknown {
                return by_cmdline;
            }
        }
        Self::by_name(comm)
    }

    fn by_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "node" | "nodejs" | "npm" | "npx" | "tsx" | "mainthread" => Self::Node,
            // The native build of this command is a bun executable.
            "bun" | "bunx" | "claude" => Self::Bun,
            "curl" => Self::Curl,
            "java" => Self::Java,
            _ if name.starts_with("python") || name.starts_with("uvicorn") || name.starts_with("gunicorn") => {
                Self::Python
            }
            _ => Self::Unknown,
        }
    }

    /// How to make the client's pool give up idle connections before `limit`.
    pub fn pool_idle(self, limit: Option<Duration>) -> String {
        let below = match limit {
            Some(l) => format!("below {} (the shortest idle time that failed)", span(l)),
            None => {
                format!("below the server's (not known yet; {COMMON_POOL_IDLE} s is below that of the common servers)")
            }
        };
        let secs = limit.map_or(COMMON_POOL_IDLE, |l| (l.as_secs_f64() * 0.8).floor().max(1.0) as u64);
        let ms = secs * 1000;
        let how = match self {
            Self::Node => format!(
                "in undici and `fetch`: `setGlobalDispatcher(new Agent({{ keepAliveTimeout: {ms}, keepAliveMaxTimeout: {ms} }}))`; in `http.Agent`: `timeout: {ms}`"
            ),
            Self::Bun => format!(
                "Bun's `fetch` keeps idle connections for 300 s and has no setting for it: pass `keepalive: false` (or the header `Connection: close`) for requests that come later than {secs} s after the last"
            ),
            Self::Python => format!(
                "httpx and the SDKs on it: `httpx.Limits(keepalive_expiry={secs})`; aiohttp: `TCPConnector(keepalive_timeout={secs})`; requests and urllib3 have no such setting: close the session after {secs} s of pause, or mount an adapter with retries (`Retry(total=2, allowed_methods=None)`)"
            ),
            Self::Go => format!("`http.Transport{{ IdleConnTimeout: {secs} * time.Second }}`"),
            Self::Rust => {
                format!("reqwest and hyper: `.pool_idle_timeout(Duration::from_secs({secs}))` on the client builder")
            }
            Self::Curl => format!("`--max-time` does not help here; libcurl: `CURLOPT_MAXAGE_CONN` = {secs}"),
            Self::Java => {
                format!("`-Djdk.httpclient.keepalive.timeout={secs}` (HttpURLConnection: `-Dhttp.keepAlive=false`)")
            }
            Self::Unknown => format!(
                "the setting is called `keepAliveTimeout` in undici, `keepalive_expiry` in httpx, `IdleConnTimeout` in Go, `pool_idle_timeout` in hyper and reqwest, `CURLOPT_MAXAGE_CONN` in libcurl, `jdk.httpclient.keepalive.timeout` in Java; {secs} s would do"
            ),
        };
        format!("Set the client's pool idle timeout {below}: {how}.")
    }

    /// How to switch TCP keepalive on in the client, with the first probe after `idle`.
    pub fn keepalive(self, idle: Duration) -> String {
        let s = idle.as_secs().max(1);
        let how = match self {
            Self::Node => format!(
                "`new Agent({{ connect: {{ keepAlive: true, keepAliveInitialDelay: {ms} }} }})` in undici, `new http.Agent({{ keepAlive: true, keepAliveMsecs: {ms} }})` in `http`, `socket.setKeepAlive(true, {ms})` on a net.Socket",
                ms = s * 1000
            ),
            Self::Bun => format!("Bun's `fetch` sets 60 s by itself; for sockets of your own: `socket.setKeepAlive(true, {})`", s * 1000),
            Self::Python => format!(
                "httpx: `httpx.HTTPTransport(socket_options=[(SOL_SOCKET, SO_KEEPALIVE, 1), (IPPROTO_TCP, TCP_KEEPIDLE, {s}), (IPPROTO_TCP, TCP_KEEPINTVL, 10)])` as the client's transport; requests and urllib3: the same list in `urllib3.connection.HTTPConnection.default_socket_options`; aiohttp: `TCPConnector(socket_factory=...)`"
            ),
            Self::Go => format!("`net.Dialer{{ KeepAliveConfig: net.KeepAliveConfig{{ Enable: true, Idle: {s} * time.Second }} }}`"),
            Self::Rust => format!("reqwest: `.tcp_keepalive(Duration::from_secs({s}))`; hyper: `HttpConnector::set_keepalive`"),
            Self::Curl => format!("`curl --keepalive-time {s}`"),
            Self::Java => "`setOption(ExtendedSocketOptions.TCP_KEEPIDLE, ...)` with SO_KEEPALIVE; the HTTP clients of the JDK do not offer it".to_owned(),
            Self::Unknown => format!("SO_KEEPALIVE with TCP_KEEPIDLE {s}"),
        };
        format!(
            "Switch TCP keepalive on with the first probe after at most {}: `agent keepalive --pid PID --idle {s}s` does it to the running process now (`agent guard` also for its future connections); in the client itself: {how}.",
            span(Duration::from_secs(s))
        )
    }

    /// How to bound the wait for an answer.
    pub fn request_timeout(self) -> String {
        let how = match self {
            Self::Node => {
                "undici and `fetch`: `headersTimeout`/`bodyTimeout` of the Agent or `AbortSignal.timeout(ms)`; `http`: `request.setTimeout(ms)`"
            }
            Self::Bun => "`fetch(url, { signal: AbortSignal.timeout(ms) })`",
            Self::Python => {
                "httpx: `timeout=httpx.Timeout(...)`; requests: `timeout=(connect, read)`; aiohttp: `ClientTimeout(sock_read=...)`"
            }
            Self::Go => "`http.Client{ Timeout: ... }` or `ResponseHeaderTimeout` of the Transport",
            Self::Rust => "reqwest: `.timeout(...)` or `.read_timeout(...)`",
            Self::Curl => "`curl --max-time`, `--speed-limit` with `--speed-time`",
            Self::Java => "`HttpRequest.Builder.timeout` (HttpURLConnection: `setReadTimeout`)",
            Self::Unknown => "the client's read or request timeout",
        };
        format!("If the wait is too long, bound it in the client: {how}.")
    }
}

/// Seconds below the shortest idle limit among the common servers' defaults: Node's 5 s.
const COMMON_POOL_IDLE: u64 = 4;

/// What system settings do and do not do about connections that die while idle: said wherever keepalive is advised.
pub const SYSCTL_KEEPALIVE: &str = "Lowering `net.ipv4.tcp_keepalive_time` alone does nothing for a socket without SO_KEEPALIVE: it only sets the default of sockets that have switched keepalive on.";

/// What shortens a hang on a dead connection for the whole host.
pub const SYSCTL_RETRIES: &str = "`sysctl net.ipv4.tcp_retries2=8` shortens the hang of every connection of this host (network namespace) from about 15 minutes to about 100 s; it prevents none.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_wins_over_the_name() {
        let clue = |exe: &str, cmdline: &str| Clue { exe: exe.into(), cmdline: cmdline.into() };
        assert_eq!(Client::recognise("python3", None), Client::Python);
        assert_eq!(Client::recognise("MainThread", None), Client::Node);
        assert_eq!(Client::recognise("my-server", Some(&clue("/usr/bin/node", "my-server"))), Client::Node);
        assert_eq!(Client::recognise("x", Some(&clue("/opt/x", "/usr/bin/python3.12 x.py"))), Client::Python);
        assert_eq!(Client::recognise("main", Some(&clue("/tmp/go-build12/b001/exe/main", ""))), Client::Go);
        assert_eq!(Client::recognise("nginx", None), Client::Unknown);
    }

    #[test]
    fn the_setting_stays_below_the_limit() {
        let text = Client::Node.pool_idle(Some(Duration::from_secs(10)));
        assert!(text.contains("keepAliveTimeout: 8000"), "{text}");
        assert!(Client::Unknown.pool_idle(None).contains("keepalive_expiry"));
        assert!(Client::Curl.keepalive(Duration::from_secs(30)).contains("--keepalive-time 30"));
    }
}
