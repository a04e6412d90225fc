//! The system's log, for an instance in the background that no journal listens to.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

const SOCKET: &str = "/dev/log";
/// The facility of daemons, as syslog(3) numbers it.
const DAEMON: u8 = 3 << 3;

/// Writes each line as one message.
pub(super) struct Syslog {
    socket: Mutex<UnixDatagram>,
}

impl Syslog {
    /// # Errors
    /// Where nothing takes such messages.
    pub fn connect() -> io::Result<Self> {
        Ok(Self {
            socket: Mutex::new(connect()?),
        })
    }

    fn send(&self, message: &[u8]) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.send(message).is_err()
            && let Ok(again) = connect()
        {
            // The log's own end was started again. If it fails once more, there is nobody left to be told.
            let _ = again.send(message);
            *socket = again;
        }
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SOCKET)?;
    // A log that takes nothing must not hold up the capture.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One event on its way.
pub(super) struct Message<'a> {
    syslog: &'a Syslog,
    severity: u8,
}

impl Write for Message<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let head = format!(
            "<{}>{}[{}]: ",
            DAEMON | self.severity,
            super::NAME,
            std::process::id()
        );
        self.syslog
            .send(&[head.as_bytes(), line.trim_ascii_end()].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        self.message(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        self.message(*metadata.level())
    }
}

impl Syslog {
    fn message(&self, level: Level) -> Message<'_> {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Message {
            syslog: self,
            severity,
        }
    }
}
