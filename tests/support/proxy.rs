//! A proxy before an S3 server that does to requests what networks and overloaded servers do.
//!
//! One request a connection: it is read whole, and then answered as the fault of that moment says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use litestream_multitenant::clock::now_ms;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// It is answered with this status and error code, and not passed on.
    Answer(u16, &'static str),
    /// It is answered late.
    Delay(Duration),
    /// Its connection is reset before it was passed on.
    Reset,
    /// It is carried out, and the connection ends in the middle of the answer.
    CutAnswers,
    /// It is refused as a server does whose clock is so many seconds ahead.
    Skewed(i64),
    /// A PUT that the server carries out is never acknowledged: the connection ends instead of the answer.
    LoseAcknowledgement,
    /// No request is answered, and each is carried out all the same.
    LoseEveryAnswer,
    /// It is taken, and neither passed on nor answered, even when the fault is over.
    Hang,
}

/// Listens on a loopback port until it is dropped.
pub struct Proxy {
    pub endpoint: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    server: String,
    state: Mutex<State>,
}

struct State {
    fault: Fault,
    /// How many requests the present fault has met.
    met: usize,
    /// Clients that are connected, to be cut off at the end.
    open: Vec<Weak<TcpStream>>,
    ended: bool,
}

impl Proxy {
    /// Passes requests on to the server at `endpoint`, which is `http://` and an address.
    pub fn start(endpoint: &str, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let server = endpoint.strip_prefix("http://").expect("without TLS");
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            state: Mutex::new(State {
                fault,
                met: 0,
                open: Vec::new(),
                ended: false,
            }),
        });
        let serving = shared.clone();
        Self {
            endpoint: format!("http://{address}"),
            address,
            shared,
            listening: Some(std::thread::spawn(move || serving.listen(&listener))),
        }
    }

    /// From now on requests meet this fault.
    pub fn set(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.fault = fault;
        state.met = 0;
    }

    /// How many requests have met the present fault.
    pub fn met(&self) -> usize {
        self.shared.lock().met
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let open = {
            let mut state = self.shared.lock();
            state.ended = true;
            std::mem::take(&mut state.open)
        };
        for client in open.iter().filter_map(Weak::upgrade) {
            // It may have gone by itself meanwhile.
            let _ = client.shutdown(Shutdown::Both);
        }
        // Wakes the listener, which then sees the end.
        drop(TcpStream::connect(self.address));
        if let Some(listening) = self.listening.take() {
            listening.join().expect("the proxy does not panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn listen(&self, listener: &TcpListener) {
        std::thread::scope(|clients| {
            while let Ok((client, _)) = listener.accept() {
                let client = Arc::new(client);
                let mut state = self.lock();
                if state.ended {
                    return;
                }
                state.open.retain(|open| open.strong_count() > 0);
                state.open.push(Arc::downgrade(&client));
                // What fails here failed because one of both ends is gone.
                clients.spawn(move || drop(self.serve(&client)));
            }
        });
    }

    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        let Some(request) = Request::read(client)? else {
            return Ok(());
        };
        let fault = {
            let mut state = self.lock();
            let fault = state.fault;
            let meets = fault != Fault::LoseAcknowledgement || request.is_put();
            state.met += usize::from(meets && fault != Fault::None);
            fault
        };
        match fault {
            Fault::None => client.write_all(&self.ask_server(&request)?)?,
            Fault::Answer(status, code) => {
                client.write_all(refusal(status, code, "").as_bytes())?
            }
            Fault::Delay(late) => {
                let answer = self.ask_server(&request)?;
                std::thread::sleep(late);
                client.write_all(&answer)?;
            }
            Fault::Reset => return reset(client),
            Fault::CutAnswers => {
                let answer = self.ask_server(&request)?;
                client.write_all(&answer[..middle_of(&answer)])?;
            }
            Fault::Skewed(ahead) => client.write_all(refusal_by_clock(ahead).as_bytes())?,
            Fault::LoseAcknowledgement => {
                let answer = self.ask_server(&request)?;
                let acknowledges = request.is_put() && answer.starts_with(b"HTTP/1.1 200");
                if !acknowledges {
                    client.write_all(&answer)?;
                }
            }
            Fault::LoseEveryAnswer => drop(self.ask_server(&request)?),
            Fault::Hang => drop(io::copy(&mut client, &mut io::sink())?),
        }
        client.shutdown(Shutdown::Both)
    }

    /// The server's whole answer.
    fn ask_server(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&self.server)?;
        server.write_all(request.head.as_bytes())?;
        // Then the answer ends where the connection does. This header is never signed.
        server.write_all(b"connection: close\r\n\r\n")?;
        server.write_all(&request.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

struct Request {
    /// The request line and the headers, each with its line end, without the empty line.
    head: String,
    body: Vec<u8>,
}

impl Request {
    /// The next request; none where the client has ended the connection instead.
    fn read(client: &TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let head_len = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 2;
            }
            if read_some(client, &mut bytes)? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
        let mut body = bytes.split_off(head_len + 2);
        let body_len = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, len)| len.parse().expect("a length"));
        while body.len() < body_len {
            if read_some(client, &mut body)? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Self { head, body }))
    }

    fn is_put(&self) -> bool {
        self.head.starts_with("PUT ")
    }
}

fn read_some(mut client: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 << 10];
    let read = client.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..read]);
    Ok(read)
}

/// Half of its body, or of its head where it has none.
fn middle_of(answer: &[u8]) -> usize {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let head = head.map_or(answer.len(), |end| end + 4);
    match answer.len() - head {
        0 => head / 2,
        body => head + body / 2,
    }
}

fn refusal_by_clock(ahead_s: i64) -> String {
    let theirs = now_ms() + ahead_s * 1_000;
    let date = OffsetDateTime::from_unix_timestamp(theirs / 1_000).expect("a date");
    let date = date
        .format(&Rfc2822)
        .expect("a date")
        .replace("+0000", "GMT");
    refusal(403, "RequestTimeTooSkewed", &format!("date: {date}\r\n"))
}

/// `more`: further headers, each with its line end.
fn refusal(status: u16, code: &str, more: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>As told.</Message></Error>"
    );
    format!(
        "HTTP/1.1 {status} As told\r\n{more}content-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Lets the connection's end be a reset to the other side.
fn reset(client: &TcpStream) -> io::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option's value is a `linger` of that length, and outlives the call.
    let outcome = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const at_once).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
