//! Where the API listens: a TCP address, or a socket of this machine with a name.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::peer::Peer;

const UNIX: &str = "unix:";
/// Bytes of a socket's path that the system takes.
const LONGEST_PATH: usize = 107;
/// Whoever reaches the socket may connect: what each may ask is decided by its user.
const SOCKET_MODE: u32 = 0o666;
/// Bytes that a connection holds of an answer that nobody takes. Small, so that one who takes little is noticed.
const SEND_BUFFER: usize = 128 << 10;

/// Where the API listens, as `-listen` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl Listen {
    /// The path of `unix:PATH`; none where it is none.
    ///
    /// # Errors
    /// It is not absolute, or too long; one sentence.
    pub fn unix(text: &str) -> Option<Result<PathBuf, String>> {
        let path = Path::new(text.strip_prefix(UNIX)?);
        Some(if !path.is_absolute() {
            Err(format!(
                "{text:?} is no absolute path: write unix:/run/NAME.sock"
            ))
        } else if path.as_os_str().as_bytes().len() > LONGEST_PATH {
            Err(format!(
                "{text:?}: a socket's path has at most {LONGEST_PATH} bytes"
            ))
        } else {
            Ok(path.to_owned())
        })
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `IP:PORT` or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = Self::unix(text) {
            return path.map(Listen::Unix);
        }
        let address = text.parse().map(Listen::Tcp);
        address.map_err(|_| format!("{text:?} is neither IP:PORT nor unix:PATH"))
    }
}

/// What can be read and written as a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket that connections come from.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// # Errors
    /// What the system says; that another program listens there.
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Where it listens: with the port that port 0 became.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self) -> io::Result<Listen> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Listener::Unix(_, file) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    /// The next connection, and who is on its other side.
    ///
    /// # Errors
    /// What the system says: mostly that descriptors have run out.
    pub async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let peer = Peer::of_tcp(address, stream.local_addr()?);
                rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
                Ok((Box::new(stream), peer))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::of_unix(stream.peer_cred()?.uid());
                Ok((Box::new(stream), peer))
            }
        }
    }
}

/// The name of a socket, which goes with it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another instance may have put its own there.
        if identity_of(&self.path).is_ok_and(|identity| identity == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "The API's socket stays");
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Makes the socket. One that nobody listens to any more is taken away before.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let listener = match UnixListener::bind(path) {
        Err(error) if in_use(&error) => {
            refuse_used(path)?;
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity_of(path)?,
    };
    std::fs::set_permissions(path, PermissionsExt::from_mode(SOCKET_MODE))?;
    Ok((listener, file))
}

/// Refuses what stands there, unless it is a socket that nobody listens to.
fn refuse_used(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?.file_type();
    if !found.is_socket() {
        return Err(io::Error::other("something stands there that is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("another program listens there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_sockets() {
        for text in ["127.0.0.1:8080", "[::1]:80", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Listen>().expect(text).to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(LONGEST_PATH));
        for text in ["", "unix:", "unix:run/x.sock", "/run/x.sock", long.as_str()] {
            assert!(text.parse::<Listen>().is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_to_is_taken_over_and_nothing_else() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("api.sock");
        let listen = Listen::Unix(path.clone());
        let first = Listener::bind(&listen).await.expect("bound");
        let mode = std::fs::metadata(&path).expect("there").mode() & 0o777;
        assert_eq!(mode, SOCKET_MODE);
        let error = Listener::bind(&listen).await.expect_err("in use");
        assert!(error.to_string().contains("another program"), "{error}");
        drop(first);
        assert!(!path.exists(), "its name goes with it");
        // As a kill leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let second = Listener::bind(&listen).await.expect("nobody listens");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        drop(second);
        assert!(path.exists(), "it is another's");
        let error = Listener::bind(&listen).await.expect_err("no socket");
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), b"a file");
    }
}
