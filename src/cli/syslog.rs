//! The system's log, for an instance in the background that no journal listens to.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::log_thread::Lines;

const SOCKET: &str = "/dev/log";
/// The facility of daemons, as syslog(3) numbers it.
const DAEMON: u8 = 3 << 3;

/// Takes messages, each by one write. It waits where the system's log is slow, so only the log's own thread writes to it.
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Syslog {
    /// # Errors
    /// Where nothing takes such messages.
    pub fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }
}

impl Write for Syslog {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if self.socket.send(message).is_err() {
            // The log's own end was started again. If it fails once more, there is nobody left to be told.
            let again = Self::connect_to(&self.path)?;
            again.socket.send(message)?;
            *self = again;
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a message of each line on its way to the system's log.
pub(super) struct Messages(pub Lines);

impl Messages {
    fn of(&self, level: Level) -> Message<'_> {
        Message {
            lines: &self.0,
            level,
        }
    }
}

impl<'a> MakeWriter<'a> for Messages {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        self.of(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        self.of(*metadata.level())
    }
}

/// One event on its way.
pub(super) struct Message<'a> {
    lines: &'a Lines,
    level: Level,
}

impl Write for Message<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.clone().write_all(&message(self.level, line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line as the system's log takes it.
pub(super) fn message(level: Level, line: &[u8]) -> Vec<u8> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let head = format!(
        "<{}>{}[{}]: ",
        DAEMON | severity,
        super::NAME,
        std::process::id()
    );
    [head.as_bytes(), line.trim_ascii_end()].concat()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::log_thread::LogThread;
    use super::*;

    fn listening(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).expect("bound");
        let limit = Some(Duration::from_secs(10));
        socket.set_read_timeout(limit).expect("a limit");
        socket
    }

    fn next(log: &UnixDatagram) -> String {
        let mut message = [0; 1_000];
        let length = log.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    #[test]
    fn each_event_is_a_message_also_to_a_log_that_was_started_again() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("log");
        let log = listening(&path);
        let syslog = Syslog::connect_to(&path).expect("it takes messages");
        let thread = LogThread::start(syslog, 0, |_| Vec::new());
        let layer = tracing_subscriber::fmt::layer()
            .without_time()
            .with_target(false)
            .with_level(false)
            .with_writer(Messages(thread.lines()));
        let subscriber = tracing_subscriber::registry().with(layer);
        let pid = std::process::id();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("first");
            tracing::error!("second");
            for text in [
                format!("<30>litestream-multitenant[{pid}]: first"),
                format!("<27>litestream-multitenant[{pid}]: second"),
            ] {
                assert_eq!(next(&log), text);
            }
            drop(log);
            std::fs::remove_file(&path).expect("removed");
            let log = listening(&path);
            tracing::warn!("third");
            let text = format!("<28>litestream-multitenant[{pid}]: third");
            assert_eq!(next(&log), text);
        });
    }
}
