//! One request to the API of an instance that runs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const CONNECT_TIME: Duration = Duration::from_secs(5);

/// An answer: its status, and its body.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks, and waits for the whole answer; `time` is how long each part of it may take.
pub(super) fn ask(
    api: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    time: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&api, CONNECT_TIME)?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    // Of version 1.0, so that the answer comes in one piece.
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {api}\r\n{token}Content-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::other("what answers there is no HTTP server"))
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
