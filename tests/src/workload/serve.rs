//! How a server treats each connection that it accepts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::sock;

/// Written on the command line as `echo`, `sink`, `silent`, `manual`, `reset-after:BYTES`, `close-after:MS`, `half:BYTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends everything back.
    Echo,
    /// Reads everything, closes when the client does.
    Sink,
    /// Reads everything, never answers, never closes.
    Silent,
    /// Leaves the connection to later commands.
    Manual,
    /// Closes with linger 0 after that many bytes.
    ResetAfter(u64),
    /// Echoes, and closes in order when nothing came for that long.
    CloseAfter(Duration),
    /// Reads that many bytes, then stops reading: the window closes.
    Half(u64),
}

impl std::str::FromStr for Behaviour {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, number) = s.split_once(':').unwrap_or((s, ""));
        let number = || number.parse::<u64>().map_err(|_| format!("'{s}' needs a number after the colon"));
        Ok(match name {
            "echo" => Self::Echo,
            "sink" => Self::Sink,
            "silent" => Self::Silent,
            "manual" => Self::Manual,
            "reset-after" => Self::ResetAfter(number()?),
            "close-after" => Self::CloseAfter(Duration::from_millis(number()?)),
            "half" => Self::Half(number()?),
            _ => return Err(format!("no such behaviour: {s}")),
        })
    }
}

/// Serves one connection until it ends; the descriptor is closed on return. `Manual` is not for here.
pub fn serve(mut stream: TcpStream, how: Behaviour) -> std::io::Result<()> {
    let mut buffer = vec![0u8; 64 * 1024];
    match how {
        Behaviour::Echo => echo(&mut stream, &mut buffer),
        Behaviour::CloseAfter(idle) => {
            stream.set_read_timeout(Some(idle))?;
            echo(&mut stream, &mut buffer)
        }
        Behaviour::Sink | Behaviour::Manual => {
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        }
        Behaviour::Silent => {
            while stream.read(&mut buffer)? > 0 {}
            forever()
        }
        Behaviour::ResetAfter(bytes) => {
            read_exactly(&mut stream, &mut buffer, bytes)?;
            sock::linger_zero(stream.as_raw_fd())
        }
        Behaviour::Half(bytes) => {
            read_exactly(&mut stream, &mut buffer, bytes)?;
            forever()
        }
    }
}

fn echo(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => stream.write_all(&buffer[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

fn read_exactly(stream: &mut TcpStream, buffer: &mut [u8], mut bytes: u64) -> std::io::Result<()> {
    while bytes > 0 {
        let want = buffer.len().min(bytes as usize);
        match stream.read(&mut buffer[..want])? {
            0 => return Ok(()),
            n => bytes -= n as u64,
        }
    }
    Ok(())
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}
