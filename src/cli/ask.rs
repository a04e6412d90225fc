//! One request to the API of an instance that runs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::api::Listen;

const CONNECT_TIME: Duration = Duration::from_secs(5);

/// An answer: its status, and its body.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks, and waits for the whole answer; `time` is how long each part of it may take.
pub(super) fn ask(
    api: &Listen,
    method: &str,
    path: &str,
    token: Option<&str>,
    time: Duration,
) -> io::Result<Answer> {
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    // Of version 1.0, so that the answer comes in one piece.
    let head = |host: &str| {
        format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n{token}Content-Length: 0\r\n\r\n")
    };
    let text = match api {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIME)?;
            stream.set_read_timeout(Some(time))?;
            stream.set_write_timeout(Some(time))?;
            exchange(stream, &head(&address.to_string()))?
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(time))?;
            stream.set_write_timeout(Some(time))?;
            exchange(stream, &head("localhost"))?
        }
    };
    parse(&text).ok_or_else(|| io::Error::other("what answers there is no HTTP server"))
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer {
        status: status.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.1 409 Conflict\r\nA: b\r\n\r\n{}\r\n\r\n").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (409, "{}\r\n\r\n"));
        for text in [
            "",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}
